"""A workspace: a folder of training runs, which a benchmark finishes however often it is stopped."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import result
from stillbit import run
from stillbit.recipes.load import load
from stillbit.training.record import read_record


def parser(name: str, description: str | None, seeds: list[int]) -> argparse.ArgumentParser:
    """Return a parser with the options of a benchmark that trains."""
    made = result.parser(name, description)
    made.add_argument("workspace", type=Path, help="folder for the runs")
    made.add_argument(
        "--seeds", type=int, nargs="+", default=seeds, help=f"one run per variant and seed (default: {' '.join(map(str, seeds))})"
    )
    made.add_argument("--report-only", action="store_true", help="train nothing; write the result of the finished runs")
    made.add_argument("--trained-at", help="the commit that trained the runs, if it is not this checkout's")
    return made


def train(recipe: str, folder: Path, overrides: tuple[str, ...]) -> None:
    """Train a recipe into a folder, from where an earlier call stopped."""
    if is_complete(folder):
        return
    print(f"{folder.name}: training", flush=True)
    run.train(load(recipe, overrides), folder, resume=(folder / run.RECIPE).exists())


def is_complete(folder: Path) -> bool:
    """Say whether a run has taken all its steps."""
    record = folder / "record.jsonl"
    return record.exists() and any(event.get("status") == "complete" for event in read_record(record))


def header(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the header of a result; hardware and versions are those that trained the run in `folder`."""
    start, made = next(read_record(folder / "record.jsonl")), result.header(options.command)
    trained = {"commit": options.trained_at or made["commit"], "hardware": start["hardware"], "versions": start["versions"]}
    return {"command": made["command"], "date": made["date"], **trained}
