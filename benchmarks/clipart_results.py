"""Reads the run folders of `efficientnet_clipart.py` and writes its table, as JSON and as Markdown."""

import json
import re
import subprocess
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from stillbit.training.record import read_record

METHOD_TITLES = {
    "lsq": "LSQ",
    "damp": "LSQ + dampening to 0.1",
    "damp10": "LSQ + dampening to 10",
    "freeze": "LSQ + freezing",
}
_RUN_NAME = re.compile(r"(w\da\d)_(lsq|damp|damp10|freeze)_seed(\d+)")


class Run(NamedTuple):
    """The figures of one run. Accuracies are top-1 on the validation split, shares are of the tracked weights."""

    epochs: int
    steps: int
    accuracy_before_training: float
    accuracy_before_reestimation: float | None
    accuracy: float
    oscillating: float | None
    frozen: float | None
    minutes: float


def write_results(workspace: Path, folder: Path) -> None:
    """Write `efficientnet_clipart.json` and `.md` of all finished runs.

    Args:
        workspace: Holds the run folders, `float` among them.
        folder: Where the results go; made if it is missing.

    Raises:
        FileNotFoundError: If not even the float run has begun.
    """
    start = next(read_record(workspace / "float" / "record.jsonl"))
    finished = {path.parent.name: read_run(path) for path in sorted(workspace.glob("*/record.jsonl")) if is_complete(path)}
    facts = {
        "image_size": start["recipe"]["data"]["image_size"],
        "train_images": sum(1 for _ in (workspace / "clipart" / "train").rglob("*.png")),
        "val_images": sum(1 for _ in (workspace / "clipart" / "val").rglob("*.png")),
        "commit": commit(),
        "command": command(start["recipe"]["data"]["image_size"], finished),
        "hardware": start["hardware"],
        "versions": start["versions"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    results = {**facts, "runs": {name: one._asdict() for name, one in finished.items()}}
    (folder / "efficientnet_clipart.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "efficientnet_clipart.md").write_text(markdown(facts, finished), encoding="utf-8")


def commit() -> str:
    """Return the commit of this checkout, `unknown` if it is none."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def command(image_size: int, finished: dict[str, Run]) -> str:
    """Return the command that trains all these runs."""
    variants = {name: match for name in finished if (match := _RUN_NAME.fullmatch(name))}
    seeds = " ".join(sorted({match[3] for match in variants.values()}, key=int))
    epochs = max((finished[name].epochs for name in variants), default=0)
    return f"python benchmarks/efficientnet_clipart.py WORKSPACE --image-size {image_size} --epochs {epochs} --seeds {seeds}"


def is_complete(record: Path) -> bool:
    """Say whether a run has taken all its steps."""
    return record.exists() and any(event.get("status") == "complete" for event in read_record(record))


def read_run(record: Path) -> Run:
    """Collect the figures of a finished run from its record."""
    events = list(read_record(record))
    epochs = [event for event in events if event["event"] == "epoch"]
    first, last = epochs[0], epochs[-1]
    # The time between processes, before a run is resumed, is not the run's.
    seconds = sum(later["time"] - earlier["time"] for earlier, later in pairwise(events) if later["event"] != "resume")
    return Run(
        epochs=last["epoch"],
        steps=last["step"],
        accuracy_before_training=first["val_top1"],
        accuracy_before_reestimation=last.get("val_top1_before_reestimation"),
        accuracy=last["val_top1"],
        oscillating=last.get("oscillating"),
        frozen=last.get("frozen"),
        minutes=seconds / 60,
    )


def markdown(facts: dict[str, Any], finished: dict[str, Run]) -> str:
    """Give the table: one line a width and method, the mean over its seeds with the smallest and largest value."""
    lines = [
        "# EfficientNet-Lite0 on clip art",
        "",
        f"{facts['train_images']} training and {facts['val_images']} validation images of {facts['image_size']} pixels, 16 classes; "
        "the last checkpoint of each run counts, not the best.",
        f"Command: `{facts['command']}`, commit {facts['commit'][:10]}.",
        f"Hardware: {facts['hardware']['cpus']} cores ({facts['hardware']['device']}), {facts['hardware']['threads']} thread(s) a run.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + ".",
        "",
        "| network | seeds | epochs | calibrated only | trained | trained, BN re-estimated | oscillating | frozen | minutes a run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    if "float" in finished:
        one = finished["float"]
        lines.append(f"| float | 1 | {one.epochs} | | {one.accuracy:.1%} | | | | {one.minutes:.0f} |")
    for (bits, method), runs in group(finished).items():
        cells = [f"{bits.upper()} {METHOD_TITLES[method]}", str(len(runs)), str(runs[0].epochs)]
        for field in ("accuracy_before_training", "accuracy_before_reestimation", "accuracy", "oscillating", "frozen"):
            cells.append(spread([value for one in runs if (value := getattr(one, field)) is not None]))
        cells.append(f"{fmean(one.minutes for one in runs):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def group(finished: dict[str, Run]) -> dict[tuple[str, str], list[Run]]:
    """Put the seeds of a variant together; W4A4 before W3A3, the baseline before the methods."""
    found: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for name, one in finished.items():
        if match := _RUN_NAME.fullmatch(name):
            found[match[1], match[2]].append(one)
    methods = list(METHOD_TITLES)
    return dict(sorted(found.items(), key=lambda item: (-int(item[0][0][1]), methods.index(item[0][1]))))


def spread(values: list[float]) -> str:
    """Write shares as `61.2%`, or `61.2% (59.9% to 62.5%)` for several; nothing if there are none."""
    if not values:
        return ""
    mean = f"{fmean(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1%} to {max(values):.1%})"
