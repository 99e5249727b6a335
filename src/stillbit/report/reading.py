"""From a run's record to its history."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillbit.errors import ReportError
from stillbit.report.history import (
    ActivationHistory,
    BatchnormCheck,
    Histogram,
    LayerFacts,
    LayerHistory,
    RunHistory,
    Series,
    Trajectory,
)
from stillbit.training.quantizer_figures import bins
from stillbit.training.record import read_record

RECORD = "record.jsonl"
_NO_FIGURES = ("event", "step", "time", "epoch")


def read_run(folder: Path) -> RunHistory:
    """Read what the record of a run tells."""
    path = folder / RECORD
    if not path.is_file():
        raise ReportError(f"run folder {folder}: it has no {RECORD}; allowed: the folder of a run")
    gathered = _Gathered()
    try:
        for event in read_record(path):
            gathered.take(event)
        if gathered.num_events:
            return gathered.history(folder)
    except OSError as error:
        raise ReportError(f"record {path}: cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        told = f"{gathered.num_events} events could be read"
        raise ReportError(f"record {path}: damaged, or not written by stillbit's trainer; {told}") from error
    raise ReportError(f"record {path}: holds no event; allowed: that of a run that has begun")


@dataclass
class _Gathered:
    """What the events so far have told, by step where there are several: what was lived through twice counts once.

    Attributes:
        num_events: How many there were.
        start: The last start or resumption.
        end: The last event, if it was an end.
        seconds: Time between events, without that before a resumption.
        time: Of the last event.
    """

    num_events: int = 0
    start: Mapping[str, Any] = field(default_factory=dict)
    end: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    batchnorm: Mapping[str, Any] = field(default_factory=dict)
    steps: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    epochs: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    observations: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    trajectories: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    time: float = math.inf

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one more event."""
        kind, step = event["event"], event["step"]
        by_step = {"step": self.steps, "epoch": self.epochs, "observation": self.observations, "trajectories": self.trajectories}
        self.end = event if kind == "end" else {}
        if kind in by_step:
            by_step[kind][step] = event
        elif kind in ("start", "resume"):
            self.start, self.time = event, event["time"]
        elif kind == "facts":
            self.facts = event
        elif kind == "batchnorm":
            self.batchnorm = event
        self.seconds += max(0.0, event["time"] - self.time)
        self.time = event["time"]
        self.num_events += 1

    def history(self, folder: Path) -> RunHistory:
        """Return what has been told."""
        return RunHistory(
            name=folder.resolve().name,
            folder=folder,
            recipe=self.start["recipe"] or {},
            versions=self.start["versions"],
            hardware=self.start["hardware"],
            images_per_step=self.start["images_per_step"],
            steps_per_epoch=self.start["steps_per_epoch"],
            status=self.end.get("status", "unfinished"),
            reason=self.end.get("reason", ""),
            seconds=self.seconds,
            steps=_figures(self.steps),
            epochs=_figures(self.epochs),
            layers=self._layers(),
            activations=self._activations(),
            batchnorms=self._batchnorms(),
            other_bytes=self.facts.get("other_bytes", 0),
            float_bytes=self.facts.get("float_bytes", 0),
        )

    def _layers(self) -> tuple[LayerHistory, ...]:
        trajectories = self._trajectories()
        layers = []
        for place, told in enumerate(self.facts.get("layers", ())):
            facts = LayerFacts(**{**told, "shape": tuple(told["shape"]), "num_weights": math.prod(told["shape"])})
            names = ("oscillating", "frozen", "scale", "smallest_scale", "largest_scale")
            columns = {name: self._column(name, place) for name in names}
            layers.append(
                LayerHistory(facts, **columns, histograms=self._histograms(facts, place), trajectories=tuple(trajectories[facts.name]))
            )
        return tuple(layers)

    def _activations(self) -> tuple[ActivationHistory, ...]:
        told = enumerate(self.facts.get("activations", ()))
        return tuple(ActivationHistory(one["name"], one["bits"], self._column("activation_scale", place)) for place, one in told)

    def _batchnorms(self) -> tuple[BatchnormCheck, ...]:
        columns = (self.batchnorm.get(name, ()) for name in ("layers", "before", "after"))
        return tuple(BatchnormCheck(*row) for row in zip(*columns, strict=True))

    def _column(self, name: str, place: int) -> Series:
        return _series({step: observation[name][place] for step, observation in self.observations.items()})

    def _histograms(self, facts: LayerFacts, place: int) -> tuple[Histogram, ...]:
        start, width, count = bins(facts.bits, facts.low, facts.high)
        rows = [(step, tuple(observation["histograms"][place])) for step, observation in sorted(self.observations.items())]
        if any(len(counts) != count for _, counts in rows):
            raise KeyError(facts.name)
        return tuple(Histogram(step, start, width, counts) for step, counts in rows)

    def _trajectories(self) -> Mapping[str, list[Trajectory]]:
        found: dict[str, list[Trajectory]] = defaultdict(list)
        for _, window in sorted(self.trajectories.items()):
            for layer in window["layers"]:
                for one in layer["weights"]:
                    positions = tuple(math.nan if position is None else position for position in one["positions"])
                    found[layer["name"]].append(Trajectory(one["index"], one["frequency"], window["first_step"], positions))
        return found


def _figures(events: Mapping[int, Mapping[str, Any]]) -> dict[str, Series]:
    names = dict.fromkeys(name for event in events.values() for name in event if name not in _NO_FIGURES)
    return {name: _series({step: event.get(name) for step, event in events.items()}) for name in names}


def _series(values: Mapping[int, float | None]) -> Series:
    known = sorted((step, value) for step, value in values.items() if value is not None)
    return Series(tuple(step for step, _ in known), tuple(value for _, value in known))
