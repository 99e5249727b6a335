"""Ranges of least squared quantization error, by grid or by golden section (docs/spec/cnn.md, 2.4).

The first batch decides whether the tensor is one-sided, and how far the search goes; both hold for all later batches.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillbit.numerics.all_reduce import sum_over_ranks
from stillbit.numerics.candidate_loss import CandidateGrids, candidate_grids, candidate_losses, published_loss
from stillbit.numerics.range_estimator import RangeEstimator
from stillbit.options import check

MarginMode = Literal["absolute", "relative"]


class SearchSpan(NamedTuple):
    """How far a search goes.

    Attributes:
        one_sided: Whether every range starts at 0: no value of the first batch is negative, or the grid has no negative codes.
        lowest: Smallest value less the margin.
        highest: Largest value plus the margin.
    """

    one_sided: bool
    lowest: float
    highest: float

    @property
    def widest(self) -> float:
        """The largest absolute end of a range."""
        return max(abs(self.lowest), abs(self.highest))


class MSESearch(RangeEstimator):
    """Finds the range whose grid has the least squared error.

    Args:
        symmetric: Whether the quantizer's zero point is fixed at 0.
        bits: Width of the codes; the attribute `bits` may be changed later, except the number of skews.
        candidates: Number of widths; the narrowest range that is tried has 1 / candidates of the widest.
        margin: How far the search goes beyond the values of the first batch.
        margin_mode: "absolute": by `margin`, as published. "relative": by `margin` times the largest absolute value, which tries as
            many useful candidates on tiny weights as on large ones.
        signed: Whether the symmetric grid has negative codes; None: if the first batch has negative values.
        channel_axis: Axis of the tensor that has one range per index; None: one range for all.
    """

    def __init__(
        self,
        *,
        symmetric: bool,
        bits: int,
        candidates: int = 100,
        margin: float = 0.5,
        margin_mode: MarginMode = "absolute",
        signed: bool | None = None,
        channel_axis: int | None = None,
    ) -> None:
        super().__init__(channel_axis)
        check("margin_mode", margin_mode, MarginMode)
        self.symmetric = symmetric
        self.bits = bits
        self.candidates = candidates
        self.margin = margin
        self.margin_mode = margin_mode
        self.signed = signed
        self.span: SearchSpan | None = None
        self._num_skews = max(1, 2**bits // 4)

    @final
    def _estimate(self, x: Tensor, smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        if self.span is None:
            self.span = self._span(float(smallest.min()), float(largest.max()))
        x_min, x_max = self._search(x.float(), self.span)  # as published, whatever the model's precision
        return torch.from_numpy(x_min), torch.from_numpy(x_max)

    @abstractmethod
    def _search(self, x: Tensor, span: SearchSpan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and upper ends of least error, (channels)."""

    def _span(self, smallest: float, largest: float) -> SearchSpan:
        unit = max(-smallest, largest) if self.margin_mode == "relative" else 1.0
        one_sided = smallest >= 0 if self.signed is None else not self.signed
        if self.signed is False:
            smallest = max(smallest, 0.0)  # what is below is cut off
        return SearchSpan(one_sided, smallest - self.margin * unit, largest + self.margin * unit)

    @final
    def _grids(self, x_min: NDArray[np.float64], x_max: NDArray[np.float64]) -> CandidateGrids:
        ends = (torch.from_numpy(end.astype(np.float32).reshape(-1)) for end in (x_min, x_max))
        return candidate_grids(*ends, symmetric=self.symmetric, bits=self.bits)

    @final
    def _searches_shift(self, span: SearchSpan) -> bool:
        """Whether lower and upper end move apart from each other."""
        return not self.symmetric and not span.one_sided


@final
class MSEGrid(MSESearch):
    """Tries a grid of ranges and adds up their errors over the batches.

    Symmetric or one-sided: `candidates` widths. Else each width meets 2^bits / 4 shifts of whole grid steps to either side.

    Attributes:
        losses: Errors so far, float64 (channels, candidates) or (channels, candidates, skews, 2); None before the first batch.
    """

    losses: NDArray[np.float64] | None = None

    def _search(self, x: Tensor, span: SearchSpan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x_min, x_max = self._ranges(span)
        batch_losses = sum_over_ranks(candidate_losses(self._rows(x), self._grids(x_min, x_max))).T.cpu().numpy()
        losses = batch_losses if self.losses is None else self.losses.reshape(batch_losses.shape) + batch_losses
        self.losses = losses.reshape(-1, *x_min.shape)
        best = losses.argmin(axis=1)  # the first of equals
        return x_min.reshape(-1)[best], x_max.reshape(-1)[best]

    def _ranges(self, span: SearchSpan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        half_widths = np.arange(1, self.candidates + 1, dtype=np.float64) * (span.widest / self.candidates)
        if not self._searches_shift(span):
            return (np.zeros_like(half_widths) if span.one_sided else -half_widths), half_widths
        half_widths = half_widths[:, None, None]
        steps = 2 * half_widths / (2**self.bits - 1)
        shifts = np.arange(self._num_skews)[:, None] * steps * np.array([1, -1])
        return np.maximum(-half_widths + shifts, span.lowest), np.minimum(half_widths + shifts, span.highest)


@final
class MSEGoldenSection(MSESearch):
    """Minimizes the error of the last batch by scipy's bounded scalar minimizer, each channel for itself.

    Asymmetric and two-sided: for each width that the outer search tries, an inner one finds the best shift. The error is piecewise
    constant in the shift, so that answers of equal quality may lie apart.
    """

    def _search(self, x: Tensor, span: SearchSpan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        parts = [x] if self.channel_axis is None else x.movedim(self.channel_axis, 0).unbind()
        search = self._width_and_shift if self._searches_shift(span) else self._width
        ranges = np.array([search(part[None] if part.dim() == 0 else part, span) for part in parts])
        return ranges[:, 0], ranges[:, 1]

    def _width(self, x: Tensor, span: SearchSpan) -> tuple[float, float]:
        side = 0.0 if span.one_sided else -1.0
        width = _minimize(lambda r: self._loss(x, side * r, r), *self._width_bounds(span))
        return side * width, width

    def _width_and_shift(self, x: Tensor, span: SearchSpan) -> tuple[float, float]:
        def best_shift(width: float) -> float:
            farthest = self._num_skews * 2 * width / (2**self.bits - 1)
            return _minimize(lambda shift: self._loss(x, -width + shift, width + shift), -farthest, farthest)

        def loss(width: float) -> np.float32:
            shift = best_shift(width)
            return self._loss(x, -width + shift, width + shift)

        width = _minimize(loss, *self._width_bounds(span))
        shift = best_shift(width)
        return -width + shift, width + shift

    def _width_bounds(self, span: SearchSpan) -> tuple[float, float]:
        return span.widest / self.candidates, span.widest

    def _loss(self, x: Tensor, x_min: float, x_max: float) -> np.float32:
        loss = sum_over_ranks(published_loss(x, self._grids(np.array([x_min]), np.array([x_max]))))
        return np.float32(loss.item())  # scipy then does part of its arithmetic in float32, and reaches the published answers


def _minimize(function: Callable[[float], np.float32], lowest: float, highest: float) -> float:
    from scipy.optimize import minimize_scalar  # late: `import stillbit` stays quick

    return minimize_scalar(function, bounds=(lowest, highest), method="bounded").x  # type: ignore[no-any-return]
