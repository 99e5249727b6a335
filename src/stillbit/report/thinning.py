"""Long series in few points: no reader sees 100,000 of them, and a page that holds them opens slowly."""

import math
from collections.abc import Sequence
from typing import Any

from stillbit.report.history import Series

Point = float | None


def thin(series: Series, points: int) -> dict[str, Any]:
    """Return a series as plain data, with at most a number of points."""
    pieces = _pieces(len(series.steps), points)
    found = {
        "x": [series.steps[stop - 1] for _, stop in pieces],
        "y": [_mean(series.values[start:stop]) for start, stop in pieces],
    }
    if len(series.steps) > points:
        found["low"] = [_extreme(series.values[start:stop], min) for start, stop in pieces]
        found["high"] = [_extreme(series.values[start:stop], max) for start, stop in pieces]
    return found


def spread(count: int, chosen: int) -> list[int]:
    """Choose places of a sequence, evenly, the first and the last among them."""
    if count <= chosen:
        return list(range(count))
    return [round(place * (count - 1) / (chosen - 1)) for place in range(chosen)]


def plain(value: float) -> Point:
    """Round to five digits, which is more than a picture can show; None if it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _pieces(length: int, points: int) -> list[tuple[int, int]]:
    count = min(length, points)
    edges = [place * length // count for place in range(count + 1)] if count else []
    return [(edges[place], edges[place + 1]) for place in range(count)]


def _mean(values: Sequence[float]) -> Point:
    finite = [value for value in values if math.isfinite(value)]
    return plain(math.fsum(finite) / len(finite)) if finite else None


def _extreme(values: Sequence[float], choose: Any) -> Point:
    finite = [value for value in values if math.isfinite(value)]
    return plain(choose(finite)) if finite else None
