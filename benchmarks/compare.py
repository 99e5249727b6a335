"""Compare two records of `python -m benchmarks.speed`, and fail where a ratio got more than 10 % worse.

    python -m benchmarks.compare OLD NEW

Compare stillbit's own ratios, bytes and counts by their medians, in rows of equal sizes; ignore seconds, baselines and other libraries.
Exit code 0: no regression; 1: one line per regression; 2: a file cannot be read, or is not such a record.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.findings import SECONDS, Figure
from benchmarks.speed.record import KIND

TOLERANCE = 0.10


class ForeignFileError(ValueError):
    """A file is not a record; the message says which and why."""


@dataclass
class Comparison:
    """What was found, one line each."""

    regressions: list[str] = field(default_factory=list)
    improvements: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    num_compared: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        old, new = read(options.old), read(options.new)
        found = compare(old, new)
    except ForeignFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in (*found.not_compared, *found.improvements, *found.regressions):
        print(line)
    print(f"{found.num_compared} figures compared, {len(found.improvements)} better, {len(found.regressions)} worse by more than 10 %")
    return 1 if found.regressions else 0


def read(path: Path) -> dict[str, Any]:
    """Read a record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise ForeignFileError(f"{path}: {reason}; give a file that `python -m benchmarks.speed` wrote") from error
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise ForeignFileError(f"{path}: JSON, but no record of speed; give a file that `python -m benchmarks.speed` wrote")
    return record


def compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Compare two records."""
    found = Comparison()
    try:
        if old["hardware"] != new["hardware"]:
            found.not_compared.append("note: the two were measured on different hardware, or with different numbers of threads")
        for name in sorted(old["rows"].keys() - new["rows"].keys()):
            found.not_compared.append(f"missing in the new file: {name}{_why(new, name)}")
        for name in sorted(new["rows"].keys() - old["rows"].keys()):
            found.not_compared.append(f"missing in the old file: {name}{_why(old, name)}")
        for name, row in old["rows"].items():
            if name in new["rows"]:
                _compare_row(name, row, new["rows"][name], found)
    except (KeyError, TypeError, AttributeError) as error:
        raise ForeignFileError(
            f"the two records have different shapes ({error}); measure anew with one version of the benchmark"
        ) from error
    return found


def _why(record: dict[str, Any], name: str) -> str:
    reason = record["left_out"].get(name)
    return f" ({reason})" if reason else ""


def _compare_row(name: str, old: dict[str, Any], new: dict[str, Any], found: Comparison) -> None:
    if old["sizes"] != new["sizes"]:
        found.not_compared.append(f"not compared: {name} was measured with {old['sizes']}, then with {new['sizes']}")
        return
    before, after = ({figure.name: figure for figure in _judged(row)} for row in (old, new))
    for figure_name in sorted(before.keys() ^ after.keys()):
        found.not_compared.append(f"missing in the {'new' if figure_name in before else 'old'} file: {name}, {figure_name}")
    for figure_name in before:
        if figure_name in after:
            _compare_figure(f"{name}, {figure_name}", before[figure_name], after[figure_name], found)


def _judged(row: dict[str, Any]) -> list[Figure]:
    figures = [Figure(**figure) for figure in row["figures"]]
    return [figure for figure in figures if figure.ours and figure.unit != SECONDS]


def _compare_figure(name: str, before: Figure, after: Figure, found: Comparison) -> None:
    found.num_compared += 1
    change = _growth(after.median, before.median)
    worse, better = (-change, change) if after.higher_is_better else (change, -change)
    text = f"{name}: {before.median:g} to {after.median:g} {after.unit} ({change:+.1%})"
    if worse > TOLERANCE:
        found.regressions.append(f"worse: {text}")
    elif better > TOLERANCE:
        found.improvements.append(f"better: {text}")


def _growth(after: float, before: float) -> float:
    """Return the relative change; from nothing to something it is infinite."""
    if before == 0:
        return 0.0 if after == 0 else float("inf")
    return after / before - 1.0


if __name__ == "__main__":
    sys.exit(main())
