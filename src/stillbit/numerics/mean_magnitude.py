"""The range of LSQ's initial scale, which follows from the mean magnitude (Esser et al., arXiv 1902.08153, section 2.1)."""

from typing import final

import torch
from torch import Tensor

from stillbit.numerics.all_reduce import mean_over_ranks
from stillbit.numerics.limits import code_limits
from stillbit.numerics.range_estimator import RangeEstimator

_NEGATIVE_BELOW = -1e-5  # latents down to here count as rounding errors of 0 (docs/spec/vit.md, 2.2)


@final
class MeanMagnitude(RangeEstimator):
    """Return the range whose grid has the scale `factor * mean|x| / sqrt(largest code)`, averaged over batches (docs/spec/vit.md, 2.1).

    The factor is 2, as in the paper; 4 on grids that are unsigned by order and have several scales, as published for transformers.

    Args:
        bits: Width of the codes.
        signed: Whether the grid has negative codes; None: if a latent of any batch is below -1e-5.
        channel_axis: Axis of the tensor that has one range per index; None: one range for all.
    """

    def __init__(self, *, bits: int, signed: bool | None = None, channel_axis: int | None = None) -> None:
        super().__init__(channel_axis)
        self.bits = bits
        self.signed = signed
        self._batches = 0
        self._average: Tensor | None = None
        self._smallest: Tensor | None = None

    def _estimate(self, x: Tensor, smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        del largest
        batch = mean_over_ranks(self._rows(x).abs().mean(dim=1))
        self._batches += 1
        self._average = batch if self._average is None else self._average + (batch - self._average) / self._batches
        self._smallest = smallest if self._smallest is None else torch.minimum(smallest, self._smallest)
        signed = bool((self._smallest < _NEGATIVE_BELOW).any()) if self.signed is None else self.signed
        factor = 4.0 if self.signed is False and self.channel_axis is not None else 2.0
        largest_code = max(1, code_limits(self.bits, signed=signed)[1])  # a signed bit is refused by the quantizer
        x_max = factor * self._average * largest_code**0.5
        return (-x_max if signed else torch.zeros_like(x_max)), x_max
