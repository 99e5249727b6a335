"""The one idea: position -> code -> value.

A latent `x` has a position `x / scale - shift` (the latent in grid units). The position rounds half to even and becomes the integer
code `clamp(round(position) + zero_point, low, high)`, in this order, so that ties do not depend on the zero point. The code has the
value `scale * (code - zero_point + shift)`. Every quantizer of this library is one such grid.

    shift 0:    ... -1   0   1 ...     LSQ, min-max        (zero is a grid point)
    shift 1/2:  ... -.5 .5 1.5 ...     StatsQ (2302.02210) (zero lies between two grid points)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stillbit.numerics import kernels
from stillbit.numerics.layout import layout
from stillbit.numerics.limits import SCALE_FLOOR, code_limits, compute_dtype


class Grid(NamedTuple):
    """A uniform grid of integer codes `low..high`.

    Attributes:
        scale: Distance of two grid points, positive; broadcasts against the latent.
        zero_point: Code of value `scale * shift`; 0 on symmetric grids, else an integer-valued tensor of the scale's shape.
        shift: Offset of the grid in units of the scale, 0 or 1/2.
        low: Smallest code.
        high: Largest code.
    """

    scale: Tensor
    zero_point: Tensor | int
    shift: float
    low: int
    high: int


def position(x: Tensor, grid: Grid) -> Tensor:
    """Return the latent in grid units, `x / scale - shift`. A true division: multiplying by 1 / scale is not bit-equal."""
    dtype = compute_dtype(x)
    quotient = x.to(dtype) / grid.scale.to(dtype)
    return quotient - grid.shift if grid.shift else quotient


def zero_point_of(grid: Grid) -> Tensor | None:
    """Return a grid's zero point in the scale's shape, or None where it is 0."""
    if isinstance(grid.zero_point, Tensor):
        return grid.zero_point
    return torch.full_like(grid.scale, grid.zero_point, requires_grad=False) if grid.zero_point else None


@torch.no_grad()
def code(x: Tensor, grid: Grid, pins: Tensor | None = None) -> Tensor:
    """Return the integer code of a latent as a float tensor, zero point and pins included; the code of NaN is NaN.

    Never compiled: steps take codes within passes of their own (fast/passes.py), and who asks here asks once.

    Args:
        x: Latents.
        grid: The grid.
        pins: The code that holds, or -128 where the latent decides; None where none does.

    Returns:
        Codes, rounded half to even, without gradient, in the shape and memory order of `x`; float32, or float64 for float64 latents.

    >>> grid = Grid(torch.tensor(0.5), zero_point=0, shift=0.0, low=-4, high=3)
    >>> code(torch.tensor([-9.0, 0.24, 0.25, 0.75, 1.25]), grid)
    tensor([-4.,  0.,  0.,  2.,  2.])
    """
    seen, dtype = layout(x, grid.scale), compute_dtype(x)
    zero_point = zero_point_of(grid)
    canonical = kernels.CanonicalGrid(
        seen.view_scale(grid.scale).to(dtype),
        None if zero_point is None else seen.view_scale(zero_point).to(dtype),
        grid.shift or None,
        float(grid.low),
        float(grid.high),
    )
    (found,) = kernels.code(seen.view(x), canonical, None if pins is None else seen.view(pins))
    return seen.restore(found, x)


def value(code: Tensor, grid: Grid) -> Tensor:
    """Return the value of a code, `scale * (code - zero_point + shift)`.

    >>> value(torch.tensor([-1.0, 0.0]), Grid(torch.tensor(0.5), zero_point=0, shift=0.5, low=-2, high=1))
    tensor([-0.2500,  0.2500])
    """
    offset = code - grid.zero_point
    return grid.scale.to(compute_dtype(code)) * (offset + grid.shift if grid.shift else offset)


def grid_limits(grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the values of the codes `low` and `high`; differentiable in scale and zero point."""
    return (
        grid.scale * (grid.low - grid.zero_point + grid.shift),
        grid.scale * (grid.high - grid.zero_point + grid.shift),
    )


class Range(NamedTuple):
    """What a range of latents makes of a grid.

    Attributes:
        scale: float tensor of the range's shape.
        zero_point: Not rounded, of the range's shape; 0 on symmetric grids.
        signed: Whether codes may be negative; False on asymmetric grids.
    """

    scale: Tensor
    zero_point: Tensor
    signed: bool


def fit_range(x_min: Tensor, x_max: Tensor, *, bits: int, symmetric: bool, signed: bool | None = None) -> Range:
    """Fit a grid to a range (docs/spec/cnn.md, 1.2): zero is always inside, the larger limit of a symmetric grid gets the largest code."""
    low, high = x_min.clamp_max(0.0), x_max.clamp_min(SCALE_FLOOR)
    if symmetric:
        if signed is None:
            signed = bool((low < 0).any())
        elif not signed:
            low = torch.zeros_like(low)
        largest_code = code_limits(bits, signed=signed)[1]
        scale = torch.maximum(low.abs(), high) / largest_code
        return Range(scale, torch.zeros_like(scale), signed)
    scale = (high - low) / code_limits(bits, signed=False)[1]
    return Range(scale, -low / scale, False)
