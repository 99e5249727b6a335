"""The figures of finished runs, in one JSON file with one line per run."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks import workspace
from benchmarks.batchnorm_check import Check
from benchmarks.result import write_text
from stillbit.training.record import read_record

_DIGITS = 6  # significant digits of each figure


class Name(NamedTuple):
    """What a run folder's name says: `mobilenet_w3a3_lsq_seed0`, `w4a4_ewgs_seed1`, `resnet_float_moving_seed2`, `float`.

    Attributes:
        network: Empty if there is only one.
        bits: As in `w3a3`, or `float`.
        method: Empty for the float networks that other runs start from.
        seed: 0 if there is only one.
    """

    network: str
    bits: str
    method: str
    seed: int

    @classmethod
    def parse(cls, folder: str) -> Self:
        """Parse a folder's name."""
        match = re.fullmatch(r"(?:(mobilenet|resnet)_)?(w\da\d|float)(?:_(?!seed)([a-z0-9]+))?(?:_seed(\d+))?", folder)
        assert match is not None, folder
        return cls(match[1] or "", match[2], match[3] or "", int(match[4] or 0))


class Run(NamedTuple):
    """The figures of a finished run. Accuracies are top-1 on the validation split, shares are of the tracked weights.

    Attributes:
        epochs: Of training.
        steps: Of the optimizer.
        minutes: Wall time, whatever else the machine was doing.
        accuracy_before_training: After calibration alone.
        accuracy_with_averages: With batch norm's running averages.
        accuracy: With re-estimated statistics, if the run has been checked.
        loss_with_averages: Mean cross-entropy with the running averages.
        loss: Mean cross-entropy with re-estimated statistics, if the run has been checked.
        oscillating: Share at the end.
        frozen: Share at the end.
        curve: `steps`, `oscillating`, and with freezing `frozen`: the shares over time.
        divergence: By layer, from the population's statistics: `before` of the running averages, `after` of the re-estimated ones.
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


def read_run(folder: Path) -> Run:
    """Read the figures of a finished run from its record and its batch-norm check."""
    events = list(read_record(folder / "record.jsonl"))
    epochs = [event for event in events if event["event"] == "epoch"]
    first, last, check = epochs[0], epochs[-1], Check.read(folder)
    # The time between a stop and the next start is not the run's.
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


def write_runs(options: argparse.Namespace, **more: Any) -> None:
    """Write the figures of all finished runs of the workspace, with further facts."""
    folders = sorted(folder for folder in options.workspace.glob("*/") if workspace.is_complete(folder))
    if not folders:
        raise FileNotFoundError(f"{options.workspace}: no finished run")
    seeds = sorted({Name.parse(folder.name).seed for folder in folders})
    facts = {**workspace.header(options, folders[0]), "seeds": seeds, **more, "layers": _layers(folders)}
    runs = {folder.name: read_run(folder)._asdict() for folder in folders}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items()]
    lines.append('"runs": {\n' + ",\n".join(f"{json.dumps(name)}: {json.dumps(run)}" for name, run in runs.items()) + "\n}")
    write_text(options.output, "{\n" + ",\n".join(lines) + "\n}\n")


def _curve(events: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the shares at all logged steps; none for a float network."""
    logged = [event for event in events if event["event"] == "step" and "oscillating" in event]
    kept = [name for name in ("oscillating", "frozen") if logged and name in logged[0]]
    return {"steps": [event["step"] for event in logged], **{name: [_short(event[name]) for event in logged] for name in kept}}


def _layers(folders: list[Path]) -> dict[str, dict[str, list[str]]]:
    """Return each network's batch norms, and those that follow a depthwise convolution."""
    found = {}
    for folder in folders:
        if (check := Check.read(folder)) is not None:
            found[Name.parse(folder.name).network] = {"names": list(check.before), "depthwise": check.depthwise}
    return found


def _short(value: Any) -> Any:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
