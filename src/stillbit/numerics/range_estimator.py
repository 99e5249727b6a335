"""Range estimators: they see batches of a tensor and give the range that its quantizer should cover. Used by calibration only."""

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from stillbit.errors import DataError
from stillbit.numerics.all_reduce import maximum_over_ranks, minimum_over_ranks
from stillbit.numerics.limits import compute_dtype


class RangeEstimator(ABC):
    """Estimates the range of one tensor, over batches and over processes; one object a quantizer.

    With torch.distributed initialized, every rank sees its own share of a batch and all get the same range. Each must then call
    `update` equally often.

    Args:
        channel_axis: Axis of the tensor that has one range per index; None: one range for all.
    """

    def __init__(self, channel_axis: int | None = None) -> None:
        self.channel_axis = channel_axis

    @final
    @torch.no_grad()
    def update(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a batch and return the range of all batches so far.

        Args:
            x: The tensor to be quantized, any floating dtype.

        Returns:
            Lower and upper ends, float32 (float64 for float64): (1), or (channels) with a channel axis.

        Raises:
            DataError: If the tensor is empty or holds a value that is not finite.
        """
        if x.numel() == 0:
            raise DataError(f"a tensor of shape {tuple(x.shape)} has no range; it must hold at least one element")
        x = x.detach().to(compute_dtype(x))
        smallest, largest = _smallest_and_largest(self._rows(x))
        if not (smallest.isfinite().all() and largest.isfinite().all()):
            raise DataError(f"a tensor of shape {tuple(x.shape)} holds values that are not finite; it has no range")
        x_min, x_max = self._estimate(x, smallest, largest)
        return x_min.to(x), x_max.to(x)

    @abstractmethod
    def _estimate(self, x: Tensor, smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a batch of finite values and return the range.

        Returns:
            Lower and upper ends, (channels), any floating dtype.
        """

    @final
    def _rows(self, x: Tensor) -> Tensor:
        """Return (channels, length); copy nothing where all channels share a row and the memory is dense in any order."""
        if self.channel_axis is not None:
            return x.movedim(self.channel_axis, 0).flatten(1) if x.dim() > 1 else x[:, None]
        if torch.ops.aten.is_non_overlapping_and_dense(x):
            return x.as_strided((1, x.numel()), (x.numel(), 1))
        return x.reshape(1, -1)


def _smallest_and_largest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return each channel's extremes over all ranks; one of them is infinite where any rank holds a value that is not finite."""
    if len(rows) == 1:  # ten times as fast as along an axis
        smallest, largest = (end[None] for end in torch.aminmax(rows))
    else:
        smallest, largest = torch.aminmax(rows, dim=1)
    # A NaN would not survive every backend's minimum and maximum.
    largest = largest.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return minimum_over_ranks(smallest), maximum_over_ranks(largest)
