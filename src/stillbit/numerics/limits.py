"""What holds for every grid: its codes, its smallest scale, the type of its arithmetic, the mark of a free weight."""

import torch
from torch import Tensor

FREE = -128  # the entry of a pin tensor that freezes nothing
SCALE_FLOOR = 1e-8  # the smallest scale of any grid, and the smallest upper limit of any range


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return float32, or float64 for float64 latents: codes must not depend on autocast."""
    return torch.promote_types(x.dtype, torch.float32)


def code_limits(bits: int, *, signed: bool) -> tuple[int, int]:
    """Return the smallest and the largest code: -2^(b-1)..2^(b-1)-1, or 0..2^b-1 for unsigned and asymmetric grids."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
