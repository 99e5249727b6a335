"""The two operations that a trained network has next to PyTorch's own: an activation onto its grid, and codes back to values.

Importing this registers `torch.ops.stillbit.fake_quantize` and `torch.ops.stillbit.dequantize`. They compute what the quantizers of a
prepared model compute, bit for bit, and hold no state and no gradient.
"""

import torch
from torch import Tensor

from stillbit.numerics import grid as grids
from stillbit.numerics.grid import Grid


@torch.library.custom_op("stillbit::fake_quantize", mutates_args=())
def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float, low: int, high: int, clip: list[float] | None, label: str
) -> Tensor:
    """Return the values of the codes of `x`.

    Args:
        x: Latents.
        scale: Scale of the grid; broadcasts against `x`.
        zero_point: Code of value `scale * shift`, in the scale's shape; None: 0.
        shift: Offset of the grid in units of the scale.
        low: Smallest code.
        high: Largest code.
        clip: Limits of the activation function that is applied first; None: none is.
        label: Name of the quantizer.

    Returns:
        Values, in the shape and dtype of `x`.
    """
    return grids.value(code_of(x, scale, zero_point, shift, low, high, clip, label), _grid(scale, zero_point, shift, low, high)).to(x.dtype)


@fake_quantize.register_fake
def _(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float, low: int, high: int, clip: list[float] | None, label: str
) -> Tensor:
    del scale, zero_point, shift, low, high, clip, label
    return torch.empty_like(x)


@torch.library.custom_op("stillbit::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float, bits: int, label: str) -> Tensor:
    """Return the values of codes of a weight."""
    del bits, label
    return grids.value(codes.to(scale.dtype), _grid(scale, zero_point, shift, 0, 0))


@dequantize.register_fake
def _(codes: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float, bits: int, label: str) -> Tensor:
    del zero_point, shift, bits, label
    return torch.empty_like(codes, dtype=scale.dtype)


def code_of(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float, low: int, high: int, clip: list[float] | None, label: str
) -> Tensor:
    """Return the codes of `x` as a float tensor; take what `fake_quantize` takes."""
    del label
    latent = x if clip is None else torch.nn.functional.hardtanh(x, clip[0], clip[1])
    return grids.code(latent, _grid(scale, zero_point, shift, low, high))


def _grid(scale: Tensor, zero_point: Tensor | None, shift: float, low: int, high: int) -> Grid:
    return Grid(scale, 0 if zero_point is None else zero_point, shift, low, high)
