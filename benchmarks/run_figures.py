"""Reads run folders into figures, and writes them to one JSON file, a line a run."""

import json
import re
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

from batchnorm_check import Check

from stillbit.training.record import read_record

_DIGITS = 6  # of each figure that is kept; a share of one weight in four million has three


class Name(NamedTuple):
    """What a run folder's name says: `mobilenet_w3a3_lsq_seed0`, `w4a4_ewgs_seed1`, `resnet_float_moving_seed2`, `float`.

    Attributes:
        network: Empty where there is one network only.
        bits: As in `w3a3`, or `float`.
        method: Empty for the float networks that others start from.
        seed: 0 where there is one only.
    """

    network: str
    bits: str
    method: str
    seed: int

    @classmethod
    def parse(cls, folder: str) -> Self:
        """Take a folder's name apart."""
        match = re.fullmatch(r"(?:(mobilenet|resnet)_)?(w\da\d|float)(?:_(?!seed)([a-z0-9]+))?(?:_seed(\d+))?", folder)
        assert match is not None, folder
        return cls(match[1] or "", match[2], match[3] or "", int(match[4] or 0))


class Run(NamedTuple):
    """The figures of a finished run. Accuracies are top-1 on the validation split, shares are of the tracked weights.

    Attributes:
        epochs: Of training.
        steps: Of the optimizer.
        minutes: Wall time, on whatever else the machine was doing.
        accuracy_before_training: As calibrated.
        accuracy_with_averages: With batch norm's running averages.
        accuracy: With re-estimated statistics, where they were.
        loss_with_averages: Mean cross-entropy, likewise.
        loss: Likewise.
        oscillating: Share at the end.
        frozen: Share at the end.
        curve: `steps`, `oscillating`, and with freezing `frozen`: the shares over time.
        divergence: `before` and `after`: of the running averages and of the re-estimated statistics from the population's, by layer.
    """

    epochs: int
    steps: int
    minutes: float
    accuracy_before_training: float
    accuracy_with_averages: float
    accuracy: float
    loss_with_averages: float
    loss: float
    oscillating: float | None
    frozen: float | None
    curve: dict[str, list[float]]
    divergence: dict[str, list[float]]


def is_complete(record: Path) -> bool:
    """Say whether a run has taken all its steps."""
    return record.exists() and any(event.get("status") == "complete" for event in read_record(record))


def read_run(folder: Path) -> Run:
    """Collect the figures of a finished run from its record and its batch-norm check."""
    events = list(read_record(folder / "record.jsonl"))
    epochs = [event for event in events if event["event"] == "epoch"]
    first, last, check = epochs[0], epochs[-1], Check.read(folder)
    # The time between processes, before a run is resumed, is not the run's.
    seconds = sum(later["time"] - earlier["time"] for earlier, later in pairwise(events) if later["event"] != "resume")
    return Run(
        epochs=last["epoch"],
        steps=last["step"],
        minutes=_short(seconds / 60),
        accuracy_before_training=_short(first["val_top1"]),
        accuracy_with_averages=_short(check.accuracy_before if check else last["val_top1"]),
        accuracy=_short(check.accuracy_after if check else last["val_top1"]),
        loss_with_averages=_short(check.loss_before if check else last["val_loss"]),
        loss=_short(check.loss_after if check else last["val_loss"]),
        oscillating=_short(last.get("oscillating")),
        frozen=_short(last.get("frozen")),
        curve=_curve(events),
        divergence={} if check is None else {name: [_short(one) for one in getattr(check, name).values()] for name in ("before", "after")},
    )


def write_runs(path: Path, workspace: Path, command: str, trained_at: str | None = None, **more: Any) -> None:
    """Write the figures of all finished runs of a workspace."""
    folders = sorted(one.parent for one in workspace.glob("*/record.jsonl") if is_complete(one))
    if not folders:
        raise FileNotFoundError(f"{workspace}: no finished run")
    start = next(read_record(folders[0] / "record.jsonl"))
    facts = {
        "command": command,
        "commit": trained_at or commit(),
        "hardware": start["hardware"],
        "versions": start["versions"],
        "seeds": sorted({Name.parse(folder.name).seed for folder in folders}),
        **more,
        "layers": _layers(folders),
    }
    runs = {folder.name: read_run(folder)._asdict() for folder in folders}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items()]
    lines.append('"runs": {\n' + ",\n".join(f"{json.dumps(name)}: {json.dumps(run)}" for name, run in runs.items()) + "\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def commit() -> str:
    """Return the commit of this checkout, `unknown` if it is none."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def _curve(events: list[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Give the shares of all logged steps; nothing for a float network."""
    logged = [event for event in events if event["event"] == "step" and "oscillating" in event]
    kept = [name for name in ("oscillating", "frozen") if logged and name in logged[0]]
    return {"steps": [event["step"] for event in logged], **{name: [_short(event[name]) for event in logged] for name in kept}}


def _layers(folders: list[Path]) -> dict[str, dict[str, list[str]]]:
    """Give each network's batch norms, and those behind a depthwise convolution."""
    found = {}
    for folder in folders:
        if (check := Check.read(folder)) is not None:
            found[Name.parse(folder.name).network] = {"names": list(check.before), "depthwise": check.depthwise}
    return found


def _short(value: Any) -> Any:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
