"""What a recipe says about range initialization, and the estimators that it names."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from stillbit.errors import RecipeError
from stillbit.numerics.mean_magnitude import MeanMagnitude as MeanMagnitude
from stillbit.numerics.minmax import CurrentMinMax as CurrentMinMax
from stillbit.numerics.minmax import RunningMinMax as RunningMinMax
from stillbit.numerics.mse_search import MarginMode
from stillbit.numerics.mse_search import MSEGoldenSection as MSEGoldenSection
from stillbit.numerics.mse_search import MSEGrid as MSEGrid
from stillbit.numerics.range_estimator import RangeEstimator as RangeEstimator
from stillbit.options import Count, check_fields

_SEARCHES = {"grid": MSEGrid, "golden_section": MSEGoldenSection}
_READ_BY = {
    "percentile": "current_minmax",
    "momentum": "running_minmax",
    "search": "mse",
    "candidates": "mse",
    "margin": "mse",
    "margin_mode": "mse",
}


@dataclass(frozen=True)
class RangeConfig:
    """How a quantizer's range is found at calibration.

    Attributes:
        estimator: "mse" (least squared error), "current_minmax", "running_minmax" or "mean_magnitude" (the initial scale of LSQ).
        search: How "mse" searches: "grid" (sums over batches) or "golden_section" (the last batch alone).
        candidates: Widths that "mse" tries on a grid; by golden section, the narrowest has 1 / candidates of the widest.
        margin: How far "mse" searches beyond the values of the first batch.
        margin_mode: Whether the margin is "absolute", or "relative" to the largest absolute value.
        percentile: "current_minmax" ends the range at the percentiles P and 100 - P; None: at the extremes.
        momentum: Share of the old average in "running_minmax".
        signed: Whether a symmetric grid has negative codes; False cuts negative latents off. None: as the data has it.
    """

    estimator: Literal["mse", "current_minmax", "running_minmax", "mean_magnitude"] = "mse"
    search: Literal["grid", "golden_section"] = "grid"
    candidates: Count = 100
    margin: Annotated[float, Ge(0.0)] = 0.5
    margin_mode: MarginMode = "absolute"
    percentile: Annotated[float, Gt(0.0), Lt(50.0)] | None = None
    momentum: Annotated[float, Ge(0.0), Lt(1.0)] = 0.9
    signed: bool | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names, values out of range, and settings that the estimator does not read."""
        check_fields(self)
        _require(self.signed is None or isinstance(self.signed, bool), "signed", self.signed, "True, False, None")
        for field in fields(self):
            reader = _READ_BY.get(field.name, self.estimator)
            if getattr(self, field.name) != field.default and reader != self.estimator:
                raise RecipeError(f"{field.name} is read by the estimator {reader!r} only; the estimator is {self.estimator!r}")

    def build(self, *, symmetric: bool, bits: int, channel_axis: int | None = None) -> RangeEstimator:
        """Make a fresh estimator for one quantizer.

        Args:
            symmetric: Whether the quantizer's zero point is fixed at 0.
            bits: Width of its codes.
            channel_axis: Axis of its tensor that has one range per index; None: one range for all.

        Returns:
            The estimator.

        Raises:
            RecipeError: If the grid is asymmetric and the settings are for symmetric ones.
        """
        _require(symmetric or self.signed is None, "signed", self.signed, "None on asymmetric grids, whose codes have no sign")
        if self.estimator == "mean_magnitude":
            _require(symmetric, "estimator", self.estimator, "on asymmetric grids mse, current_minmax, running_minmax")
            return MeanMagnitude(bits=bits, signed=self.signed, channel_axis=channel_axis)
        if self.estimator == "current_minmax":
            return CurrentMinMax(percentile=self.percentile, channel_axis=channel_axis)
        if self.estimator == "running_minmax":
            return RunningMinMax(momentum=self.momentum, channel_axis=channel_axis)
        return _SEARCHES[self.search](
            symmetric=symmetric,
            bits=bits,
            candidates=self.candidates,
            margin=self.margin,
            margin_mode=self.margin_mode,
            signed=self.signed,
            channel_axis=channel_axis,
        )


def _require(accepted: bool, name: str, given: object, allowed: str) -> None:
    if not accepted:
        raise RecipeError(f"{name} is {given!r}; allowed are {allowed}")
