"""The arithmetic of fake quantization, once: plain functions that run as written (the eager twin) or compiled.

Each kernel sees canonical views only (layout.py): `(numel)` where one scale serves all, else `(outer, scale, inner)`. So a handful of
compiled variants serves every layer of every model; compiled by layer shape, MobileNetV2 alone would need 59.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from stillbit.numerics.limits import FREE, SCALE_FLOOR, compute_dtype
from stillbit.numerics.rounding import Rounding

STERange = Literal["rounded", "position", "open"]


class Variant(NamedTuple):
    """What is fixed in the backward kernel when it is compiled.

    Attributes:
        rounding: The rounding estimator.
        ste_range: Which latents pass the gradient: "rounded" those whose rounded position lies on the grid (published CNN code: half a
            step wider than LSQ), "position" those whose position does (LSQ), "open" all (StatsQ).
        grid_gradient: Whether the gradients to scale and zero point are wanted.
        reduced: Axes of the canonical view that share a scale.
    """

    rounding: Rounding
    ste_range: str
    grid_gradient: bool
    reduced: tuple[int, ...]


def forward(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    noise: Tensor | None,
    before: Tensor | None,
    after: Tensor | None,
    shift: float | None,
    low: float,
    high: float,
    clip_low: float | None,
    clip_high: float | None,
) -> tuple[Tensor, Tensor | None]:
    """Return the values of the latents' codes and, when rounding is random, the rounded positions, which backward needs again."""
    position = _position(_add(_clipped(x, clip_low, clip_high), before), scale, shift)
    if noise is None:
        rounded = torch.round(position)
    else:
        floor = torch.floor(position)
        rounded = floor + (noise < position - floor)
    codes = _code(rounded, zero_point, pins, low, high)
    values = value(codes, scale, zero_point, shift)
    # Positions beyond the int16 range are far off any grid of at most 8 bits: clamping keeps which side they are on.
    kept = None if noise is None else rounded.clamp(-32768, 32767).to(torch.int16)
    return _add(values, after).to(x.dtype), kept


def forward_by_mean(x: Tensor, pins: Tensor | None, reduced: tuple[int, ...], low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return the values on the grid whose scale follows from the latents, and that scale; arguments as in `forward` and `Variant`."""
    scale = scale_by_mean(x, reduced, low)
    values, _ = forward(x, scale, None, pins, None, None, None, 0.5, low, high, None, None)
    return values, scale


def scale_by_mean(x: Tensor, reduced: tuple[int, ...], low: float) -> Tensor:
    """Return `2 mean|x| / 2^(b-1)` over some axes, which stay with size 1 (docs/spec/vit.md, 1); `low` is -2^(b-1)."""
    # In float64, so that no compiler's order of the sum shows: in float32 it moves every other scale, and codes near a boundary.
    mean = x.abs().mean(reduced, dtype=torch.float64, keepdim=True).to(compute_dtype(x))
    return (2.0 * mean / -low).clamp(min=SCALE_FLOOR)


def pass_free(gradient: Tensor, pins: Tensor) -> tuple[Tensor]:
    """Return the gradient where nothing is pinned, else 0."""
    return (torch.where(pins == FREE, gradient, 0.0),)


def code(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    shift: float | None,
    low: float,
    high: float,
) -> tuple[Tensor]:
    """Return the latents' codes, rounded half to even, pins included, in the dtype of the arithmetic; arguments as in `forward`."""
    return (_code(torch.round(_position(x, scale, shift)), zero_point, pins, low, high),)


def value(code: Tensor | float, scale: Tensor, zero_point: Tensor | None, shift: float | None) -> Tensor:
    """Return the value of a code, `scale * (code - zero_point + shift)`; arguments as in `forward`."""
    values: Tensor = scale * _add(_subtract(code, zero_point), shift)
    return values


def backward(
    gradient: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    kept: Tensor | None,
    before: Tensor | None,
    shift: float | None,
    low: float,
    high: float,
    clip_low: float | None,
    clip_high: float | None,
    variant: Variant,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients to latent, scale, and the two uses of the zero point (codes, values), in closed form (docs/spec/cnn.md, 1.5)."""
    position = _position(_add(_clipped(x, clip_low, clip_high), before), scale, shift)
    rounded = torch.round(position) if kept is None else kept.to(position.dtype)
    g = gradient.to(position.dtype)
    passed = _passed(variant.ste_range, g, position, rounded, zero_point, pins, low, high)
    to_position = variant.rounding.factor(position, passed) * passed
    to_latent = _strictly_inside(to_position, x, clip_low, clip_high)
    to_latent = to_latent if before is not None else to_latent.to(x.dtype)
    if not variant.grid_gradient:
        return to_latent, None, None, None
    offset = _subtract(_code(rounded, zero_point, pins, low, high), zero_point)
    to_scale = _sum(g * _add(offset, shift) - to_position * _add(position, shift), variant.reduced)
    if zero_point is None:
        return to_latent, to_scale, None, None
    to_code_zero = scale * _sum(passed, variant.reduced)
    to_value_zero = -scale * _sum(g, variant.reduced)
    return to_latent, to_scale, to_code_zero, to_value_zero


def _add(x: Any, y: Tensor | float | None) -> Any:
    return x if y is None else x + y


def _subtract(x: Any, y: Tensor | float | None) -> Any:
    return x if y is None else x - y


def _sum(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Sum over axes, in the order that costs least.

    One by one, the innermost first: compiled for CPUs, a sum over both ends of a view at once is up to twice as slow. But while a whole
    model is being compiled, all axes of images but the channels at once: so batch norm sums, and its compiler makes one pass of both.
    """
    whole_channels = [axis for axis in range(x.dim()) if axis != 1]
    if torch.compiler.is_compiling() and x.dim() > 3 and set(whole_channels) <= set(axes):
        x = torch.sum(x, whole_channels, keepdim=True)
        axes = (1,) if 1 in axes else ()
    for axis in reversed(axes):
        x = torch.sum(x, axis, keepdim=True)
    return x


def _clipped(x: Tensor, clip_low: float | None, clip_high: float | None) -> Tensor:
    return x if clip_low is None else x.clamp(clip_low, clip_high)


def _strictly_inside(gradient: Tensor, x: Tensor, clip_low: float | None, clip_high: float | None) -> Tensor:
    """Return the gradient where clipping passes it to the latent, else 0."""
    if clip_low is None or clip_high is None:
        return gradient
    return torch.where((x > clip_low) & (x < clip_high), gradient, 0.0)


def _position(x: Tensor, scale: Tensor, shift: float | None) -> Tensor:
    position: Tensor = _subtract(x.to(scale.dtype) / scale, shift)
    return position


def _code(rounded: Tensor, zero_point: Tensor | None, pins: Tensor | None, low: float, high: float) -> Tensor:
    code: Tensor = _add(rounded, zero_point).clamp(low, high)
    return code if pins is None else torch.where(pins == FREE, code, pins.to(code.dtype))


def _passed(
    ste_range: str,
    gradient: Tensor,
    position: Tensor,
    rounded: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    low: float,
    high: float,
) -> Tensor:
    """Return the gradient where it passes to the latent, else 0."""
    passed = gradient
    if ste_range != "open":
        tested = _add(rounded if ste_range == "rounded" else position, zero_point)
        passed = torch.where((tested >= low) & (tested <= high), passed, 0.0)
    return passed if pins is None else torch.where(pins == FREE, passed, 0.0)
