"""The arithmetic of fake quantization, once: plain functions that run as written (the eager twin) or compiled.

Each kernel sees canonical views only (layout.py): `(numel)` where one scale serves all, else `(outer, scale, inner)`. So a handful of
compiled variants serves every layer of every model; compiled by layer shape, MobileNetV2 alone would need 59.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillbit.numerics.compiling import try_compiled
from stillbit.numerics.rounding import Rounding

FREE = -128  # the entry of a pin tensor that pins nothing
BANDS = ("rounded", "position", "open")

_COMPILE_FROM = 1 << 16  # elements; below, the call costs more than the arithmetic


class Variant(NamedTuple):
    """What is fixed in a kernel when it is compiled.

    Attributes:
        rounding: The rounding estimator.
        band: Which latents pass the gradient: "rounded" those whose rounded position lies on the grid (published CNN code: half a
            step wider than LSQ), "position" those whose position does (LSQ), "open" all (StatsQ).
        grid_gradient: Whether the gradients to scale and zero point are wanted.
        reduced: Axes of the canonical view that share a scale.
    """

    rounding: Rounding
    band: str
    grid_gradient: bool
    reduced: tuple[int, ...]


def forward(
    variant: Variant,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    noise: Tensor | None,
    shift: float,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor | None]:
    """Gives the values of the latents' codes and, when rounding was random, the rounded positions that backward needs."""
    del variant
    position = _position(x, scale, shift)
    rounded = torch.round(position) if noise is None else torch.floor(position + noise)
    code = _code(rounded, zero_point, pins, low, high)
    offset = code if zero_point is None else code - zero_point
    value = scale * (offset + shift if shift else offset)
    # Positions beyond the int16 range are far off any grid of at most 8 bits: clamping keeps which side they are on.
    kept = None if noise is None else rounded.clamp(-32768, 32767).to(torch.int16)
    return value.to(x.dtype), kept


def backward(
    variant: Variant,
    gradient: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    kept: Tensor | None,
    shift: float,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gives the gradients to latent, scale, and the two uses of the zero point (codes, values), in closed form (cnn spec 1.5)."""
    position = _position(x, scale, shift)
    rounded = torch.round(position) if kept is None else kept.to(position.dtype)
    g = gradient.to(position.dtype)
    passed = _passed(variant.band, g, position, rounded, zero_point, pins, low, high)
    to_position = variant.rounding.factor(position, passed) * passed
    to_latent = to_position.to(x.dtype)
    if not variant.grid_gradient:
        return to_latent, None, None, None
    code = _code(rounded, zero_point, pins, low, high)
    offset = code if zero_point is None else code - zero_point
    to_scale = torch.sum(g * (offset + shift) - to_position * (position + shift), variant.reduced, keepdim=True)
    if zero_point is None:
        return to_latent, to_scale, None, None
    to_code_zero = scale * torch.sum(passed, variant.reduced, keepdim=True)
    to_value_zero = -scale * torch.sum(g, variant.reduced, keepdim=True)
    return to_latent, to_scale, to_code_zero, to_value_zero


def _position(x: Tensor, scale: Tensor, shift: float) -> Tensor:
    quotient = x.to(scale.dtype) / scale
    return quotient - shift if shift else quotient


def _code(rounded: Tensor, zero_point: Tensor | None, pins: Tensor | None, low: float, high: float) -> Tensor:
    code = (rounded if zero_point is None else rounded + zero_point).clamp(low, high)
    return code if pins is None else torch.where(pins == FREE, code, pins.to(code.dtype))


def _passed(
    band: str,
    gradient: Tensor,
    position: Tensor,
    rounded: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    low: float,
    high: float,
) -> Tensor:
    """Gives the gradient where it passes to the latent, else 0."""
    passed = gradient
    if band != "open":
        tested = rounded if band == "rounded" else position
        tested = tested if zero_point is None else tested + zero_point
        passed = torch.where((tested >= low) & (tested <= high), passed, 0.0)
    return passed if pins is None else torch.where(pins == FREE, passed, 0.0)


Kernel = Callable[..., tuple[Tensor | None, ...]]


def run(kernel: Kernel, variant: Variant, x: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    """Runs `kernel`, compiled where that pays and a compiler is there, with the same codes either way.

    Args:
        kernel: `forward` or `backward`.
        variant: What is fixed in the compiled form.
        x: The kernel's first tensor, a canonical view.
        arguments: The kernel's other arguments.

    Returns:
        What the kernel gives.
    """
    if x.numel() >= _COMPILE_FROM:
        given = tuple(argument is not None for argument in arguments)
        compiled = try_compiled(kernel, (variant, x.dtype, given), variant, x, *arguments)
        if compiled is not None:
            return compiled
    return kernel(variant, x, *arguments)
