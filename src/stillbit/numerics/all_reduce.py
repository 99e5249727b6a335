"""Reductions over processes. In a single process each gives its argument.

Every rank must call them equally often and in the same order, as with any collective operation.
"""

import torch.distributed as dist
from torch import Tensor


def minimum_over_ranks(x: Tensor) -> Tensor:
    """Return the elementwise minimum over all processes; `x` has the same shape on each."""
    return _reduced(x, "MIN")


def maximum_over_ranks(x: Tensor) -> Tensor:
    """Return the elementwise maximum over all processes; `x` has the same shape on each."""
    return _reduced(x, "MAX")


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the elementwise sum over all processes; `x` has the same shape on each."""
    return _reduced(x, "SUM")


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the elementwise mean over all processes; `x` has the same shape on each."""
    return _reduced(x, "SUM") / dist.get_world_size() if _many() else x


def _reduced(x: Tensor, operation: str) -> Tensor:
    if not _many():
        return x
    reduced = x.contiguous().clone()
    dist.all_reduce(reduced, op=getattr(dist.ReduceOp, operation))
    return reduced


def _many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
