"""What a row measures: figures with spread and target, and the times behind them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

RATIO, BYTES, COUNT, SECONDS = "x", "bytes", "variants", "s"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: What was measured; unique in its row.
        median: The figure; the median if there are several rounds.
        low: Smallest over the rounds.
        high: Largest.
        unit: RATIO, BYTES (per tracked weight), COUNT or SECONDS.
        target: The most it may be, or the least if higher is better; None without a target.
        higher_is_better: Whether it is a share to reach, not a cost.
        ours: Whether it is stillbit's; other libraries and baselines are shown and not compared.
    """

    name: str
    median: float
    low: float
    high: float
    unit: str = RATIO
    target: float | None = None
    higher_is_better: bool = False
    ours: bool = True

    @classmethod
    def of(cls, name: str, values: Sequence[float], **options: Any) -> "Figure":
        """Make a figure from one value per round."""
        median, low, high = (round(value, 4) for value in (statistics.median(values), min(values), max(values)))
        return cls(name, median, low, high, **options)

    def reached(self) -> bool | None:
        """Return whether the target is reached; None without a target."""
        if self.target is None:
            return None
        return self.median >= self.target if self.higher_is_better else self.median <= self.target


@dataclass
class Findings:
    """Everything that a row measured.

    Attributes:
        figures: The numbers.
        sizes: Sizes of what was measured; figures of other sizes are not compared.
        milliseconds: Times of each contender, by name.
        notes: What was left out and why, and what a figure means; one line each.
    """

    figures: list[Figure] = field(default_factory=list)
    sizes: dict[str, Any] = field(default_factory=dict)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
