"""Which latents stand near a rounding boundary: confidence-guided annealing (arXiv 2302.02210) lets only these move.

In code coordinates (position plus zero point) the boundary between the codes i and i + 1 lies at i + 1/2. A latent is free if it is at
most `boundary_range` away from a boundary inside the grid, the band's ends included. One outside the grid never is: its code is certain.

    code coordinate   0         1         2
                      |----|----|----|----|     boundary_range 0.1: free are 0.4 to 0.6 and 1.4 to 1.6
                          ===       ===
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillbit.errors import RecipeError
from stillbit.numerics.grid import Grid


@dataclass(frozen=True)
class Gate:
    """How near to a rounding boundary a latent must be to move.

    Attributes:
        boundary_range: Half the width of the band around each boundary, in grid units, 0 to 0.5; at 0.5 all inside the grid are free.
        published: Do as the reference code does: only boundaries between the smallest and the largest code that occur count.

    Raises:
        RecipeError: If the range is out of bounds.
    """

    boundary_range: float
    published: bool = False

    def __post_init__(self) -> None:
        """Refuse a band that would overlap the next one."""
        if not 0.0 <= self.boundary_range <= 0.5:
            raise RecipeError(f"boundary_range is {self.boundary_range}; allowed: 0 to 0.5, in grid units")


@torch.no_grad()
def free(position: Tensor, grid: Grid, gate: Gate) -> Tensor:
    """Return which latents are free to move.

    Args:
        position: Latents in grid units (`grid.position`).
        grid: Their grid.
        gate: The rule.

    Returns:
        True where free; NaN is not.

    >>> grid = Grid(torch.tensor(1.0), zero_point=0, shift=0.0, low=-2, high=1)
    >>> free(torch.tensor([-2.5, -1.55, -1.0, 0.1, 0.45, 1.5]), grid, Gate(boundary_range=0.1))
    tensor([False,  True, False, False,  True, False])
    """
    coordinate = position + grid.zero_point
    near = (coordinate - coordinate.floor() - 0.5).abs() <= gate.boundary_range
    lowest, highest = _occurring(position, grid) if gate.published else (grid.low, grid.high)
    return near & (coordinate >= lowest) & (coordinate <= highest)


def pass_where(x: Tensor, free: Tensor) -> Tensor:
    """Return `x`; its gradient passes where `free` and is 0 elsewhere, whatever arrives there.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> pass_where(x, torch.tensor([True, False])).sum().backward()
    >>> x.grad
    tensor([1., 0.])
    """
    passed: Tensor = _PassWhere.apply(x, free)
    return passed


def _occurring(position: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest code of the tensor (docs/spec/vit.md, 5.1)."""
    code = (position.round() + grid.zero_point).clamp(grid.low, grid.high)
    return code.amin(), code.amax()


class _PassWhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, free: Tensor) -> Tensor:
        ctx.save_for_backward(free)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (free,) = ctx.saved_tensors
        return torch.where(free, gradient, 0.0), None
