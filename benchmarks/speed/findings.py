"""What a row gives: figures with their spread and target, and the times behind them."""

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
        median: The figure, a median where there are several rounds.
        low: Smallest over the rounds.
        high: Largest.
        unit: RATIO, BYTES (a tracked weight), COUNT or SECONDS.
        target: What it may be at most, or at least where higher is better; None where no target speaks of it.
        higher_is_better: Whether it is a share to be reached rather than a cost.
        ours: Whether it judges stillbit; other libraries and baselines are shown and not compared.
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
        """Makes a figure of one value a round."""
        median, low, high = (round(value, 4) for value in (statistics.median(values), min(values), max(values)))
        return cls(name, median, low, high, **options)

    def reached(self) -> bool | None:
        """Says whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return self.median >= self.target if self.higher_is_better else self.median <= self.target


@dataclass
class Findings:
    """All that a row has measured.

    Attributes:
        figures: The numbers.
        sizes: What they hold for; figures of other sizes are not compared.
        milliseconds: Times of each contender, by name.
        notes: One line each: what was left out and why, what a figure means.
    """

    figures: list[Figure] = field(default_factory=list)
    sizes: dict[str, Any] = field(default_factory=dict)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
