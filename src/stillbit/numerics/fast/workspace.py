"""Memory for large tensors that live for one operation: on the CPU, used again instead of given back to the system.

Whoever frees a block of many megabytes gives it back, and who asks for it again pays a page fault for each 4 KiB of it, which takes longer
than to fill it. Accelerators have caching allocators; the CPU has none. Quantized values and gradients of latents live just until the
layer next to them has read them, so that a few blocks serve a whole network.

A block is used again once nothing refers to it any more: no tensor, no view, nothing that autograd has saved. Python counts.
"""

import math
import sys
import threading
from typing import Any

import torch
from torch import Tensor

from stillbit.numerics.fast.thresholds import settings


class Workspace:
    """A set of blocks, each the memory of at most one living tensor (and its views)."""

    def __init__(self) -> None:
        self._blocks: list[Any] = []  # numpy arrays: a tensor that is made of one refers to it as long as its memory is in use
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a contiguous tensor of unknown content, as `torch.empty` does.

        Args:
            shape: Its shape.
            dtype: Its dtype.
            device: Its device; for any but the CPU this is `torch.empty`.
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        if device.type != "cpu" or num_bytes < settings.workspace_from:
            return torch.empty(shape, dtype=dtype, device=device)
        with self._lock:
            return torch.from_numpy(self._take(num_bytes))[:num_bytes].view(dtype).view(shape)

    def _take(self, num_bytes: int) -> Any:
        """Return the smallest free block that is large enough, or a new one; let go of free ones beyond a few."""
        free = sorted(self._free(), key=len)
        fitting = next((block for block in free if len(block) >= num_bytes), None)
        if fitting is None:
            fitting = torch.empty(num_bytes, dtype=torch.uint8).numpy()
            self._blocks.append(fitting)
            surplus = {id(block) for block in free[: len(free) + 1 - settings.workspace_blocks]}
            self._blocks = [block for block in self._blocks if id(block) not in surplus]
        return fitting

    def _free(self) -> list[Any]:
        return [block for block, count in zip(self._blocks, _reference_counts(self._blocks), strict=True) if count == _UNUSED]


def _reference_counts(blocks: list[Any]) -> list[int]:
    return [sys.getrefcount(block) for block in blocks]


_UNUSED = _reference_counts([torch.empty(0).numpy()])[0]  # of a block that only its list refers to; versions of Python differ
_shared = Workspace()


def empty_values(like: Tensor) -> Tensor:
    """Return contiguous room for the values or gradients of a tensor, from the one workspace of this process."""
    return _shared.empty(tuple(like.shape), like.dtype, like.device)
