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


class CanonicalGrid(NamedTuple):
    """A grid (grid.py) in canonical form, in the dtype of the arithmetic.

    Attributes:
        scale: Distance of two grid points.
        zero_point: Code of value `scale * shift`; None: 0.
        shift: Offset in units of the scale; None: 0.
        low: Smallest code.
        high: Largest code.
    """

    scale: Tensor
    zero_point: Tensor | None
    shift: float | None
    low: float
    high: float


class Around(NamedTuple):
    """What is done to latents before they meet the grid, and to values after it.

    Attributes:
        before: Learned shift, added to the latents; None: 0.
        after: Learned shift, added to the values.
        clip_low: Lower limit of a folded activation, which comes first; None: there is none.
        clip_high: Its upper limit.
    """

    before: Tensor | None = None
    after: Tensor | None = None
    clip_low: float | None = None
    clip_high: float | None = None


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


def forward(x: Tensor, grid: CanonicalGrid, pins: Tensor | None, noise: Tensor | None, around: Around) -> tuple[Tensor, Tensor | None]:
    """Return the values of the latents' codes and, when rounding is random, the rounded positions, which backward needs again."""
    position = _position(_add(_clipped(x, around), around.before), grid)
    if noise is None:
        rounded = torch.round(position)
    else:
        floor = torch.floor(position)
        rounded = floor + (noise < position - floor)
    values = value(_code(rounded, grid, pins), grid)
    # Positions beyond the int16 range are far off any grid of at most 8 bits: clamping keeps which side they are on.
    kept = None if noise is None else rounded.clamp(-32768, 32767).to(torch.int16)
    return _add(values, around.after).to(x.dtype), kept


def forward_by_mean(x: Tensor, pins: Tensor | None, reduced: tuple[int, ...], low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return the values on the grid whose scale follows from the latents, and that scale."""
    scale = scale_by_mean(x, reduced, low)
    values, _ = forward(x, CanonicalGrid(scale, None, 0.5, low, high), pins, None, Around())
    return values, scale


def scale_by_mean(x: Tensor, reduced: tuple[int, ...], low: float) -> Tensor:
    """Return `2 mean|x| / 2^(b-1)` over some axes, which stay with size 1 (docs/spec/vit.md, 1); `low` is -2^(b-1)."""
    # In float64, so that no compiler's order of the sum shows: in float32 it moves every other scale, and codes near a boundary.
    mean = x.abs().mean(reduced, dtype=torch.float64, keepdim=True).to(compute_dtype(x))
    return (2.0 * mean / -low).clamp(min=SCALE_FLOOR)


def pass_free(gradient: Tensor, pins: Tensor) -> tuple[Tensor]:
    """Return the gradient where nothing is pinned, else 0."""
    return (torch.where(pins == FREE, gradient, 0.0),)


def code(x: Tensor, grid: CanonicalGrid, pins: Tensor | None) -> tuple[Tensor]:
    """Return the latents' codes, rounded half to even, pins included, in the dtype of the arithmetic."""
    return (_code(torch.round(_position(x, grid)), grid, pins),)


def value(code: Tensor | float, grid: CanonicalGrid) -> Tensor:
    """Return the value of a code, `scale * (code - zero_point + shift)`."""
    values: Tensor = grid.scale * _add(_subtract(code, grid.zero_point), grid.shift)
    return values


def backward(
    gradient: Tensor, x: Tensor, grid: CanonicalGrid, pins: Tensor | None, kept: Tensor | None, around: Around, variant: Variant
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients to latent, scale, and the two uses of the zero point (codes, values), in closed form (docs/spec/cnn.md, 1.5)."""
    position = _position(_add(_clipped(x, around), around.before), grid)
    rounded = torch.round(position) if kept is None else kept.to(position.dtype)
    g = gradient.to(position.dtype)
    passed = _passed(variant.ste_range, g, position, rounded, grid, pins)
    to_position = variant.rounding.factor(position, passed) * passed
    to_latent = _strictly_inside(to_position, x, around)
    to_latent = to_latent if around.before is not None else to_latent.to(x.dtype)
    if not variant.grid_gradient:
        return to_latent, None, None, None
    offset = _subtract(_code(rounded, grid, pins), grid.zero_point)
    to_scale = _sum(g * _add(offset, grid.shift) - to_position * _add(position, grid.shift), variant.reduced)
    if grid.zero_point is None:
        return to_latent, to_scale, None, None
    to_code_zero = grid.scale * _sum(passed, variant.reduced)
    to_value_zero = -grid.scale * _sum(g, variant.reduced)
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


def _clipped(x: Tensor, around: Around) -> Tensor:
    return x if around.clip_low is None else x.clamp(around.clip_low, around.clip_high)


def _strictly_inside(gradient: Tensor, x: Tensor, around: Around) -> Tensor:
    """Return the gradient where clipping passes it to the latent, else 0."""
    if around.clip_low is None or around.clip_high is None:
        return gradient
    return torch.where((x > around.clip_low) & (x < around.clip_high), gradient, 0.0)


def _position(x: Tensor, grid: CanonicalGrid) -> Tensor:
    position: Tensor = _subtract(x.to(grid.scale.dtype) / grid.scale, grid.shift)
    return position


def _code(rounded: Tensor, grid: CanonicalGrid, pins: Tensor | None) -> Tensor:
    code: Tensor = _add(rounded, grid.zero_point).clamp(grid.low, grid.high)
    return code if pins is None else torch.where(pins == FREE, code, pins.to(code.dtype))


def _passed(ste_range: str, gradient: Tensor, position: Tensor, rounded: Tensor, grid: CanonicalGrid, pins: Tensor | None) -> Tensor:
    """Return the gradient where it passes to the latent, else 0."""
    passed = gradient
    if ste_range != "open":
        tested = _add(rounded if ste_range == "rounded" else position, grid.zero_point)
        passed = torch.where((tested >= grid.low) & (tested <= grid.high), passed, 0.0)
    return passed if pins is None else torch.where(pins == FREE, passed, 0.0)
