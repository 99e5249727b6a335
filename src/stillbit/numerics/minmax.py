"""Ranges from smallest and largest values."""

from typing import final

import numpy as np
import torch
from torch import Tensor

from stillbit.numerics.all_reduce import mean_over_ranks
from stillbit.numerics.range_estimator import RangeEstimator


@final
class CurrentMinMax(RangeEstimator):
    """The smallest and largest value of the last batch, or two percentiles of it.

    Args:
        percentile: P, between 0 and 50: the range ends at the percentiles P and 100 - P, linearly interpolated. None: at the
            extremes. Over several processes the percentiles of the ranks' shares are averaged: an exact one would have to gather
            the batch.
        channel_axis: Axis of the tensor that has one range per index; None: one range for all.
    """

    def __init__(self, *, percentile: float | None = None, channel_axis: int | None = None) -> None:
        super().__init__(channel_axis)
        self.percentile = percentile

    def _estimate(self, x: Tensor, smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        if self.percentile is None:
            return smallest, largest
        ends = np.percentile(self._rows(x).cpu().numpy(), (self.percentile, 100 - self.percentile), axis=1)
        # Float64 until all ranks are averaged, so that ranks with equal tensors (weights) keep their value.
        lower, upper = mean_over_ranks(torch.from_numpy(ends).to(x.device))
        return lower, upper


@final
class RunningMinMax(RangeEstimator):
    """Exponential moving averages of the batches' smallest and largest values, starting at those of the first batch.

    Args:
        momentum: Share of the old average: `(1 - momentum) * batch + momentum * average`.
        channel_axis: Axis of the tensor that has one range per index; None: one range for all.
    """

    def __init__(self, *, momentum: float = 0.9, channel_axis: int | None = None) -> None:
        super().__init__(channel_axis)
        self.momentum = momentum
        self._average: Tensor | None = None

    def _estimate(self, x: Tensor, smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        del x
        batch = torch.stack([smallest, largest])
        if self._average is None:
            self._average = batch
        else:
            self._average = (1 - self.momentum) * batch + self.momentum * self._average
        x_min, x_max = self._average
        return x_min, x_max
