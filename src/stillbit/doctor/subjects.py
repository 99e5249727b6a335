"""What rules look at: a model, a run, a file. Each knows what it was given, and says by `Unknown` what it was not."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillbit.doctor.measures import Codes, Seen, codes_of_weights, divergences, watch_example
from stillbit.export.inspect import Inspection
from stillbit.oscillation import Method
from stillbit.oscillation.optimizer_rules import Stepping, Unknown
from stillbit.report.history import RunHistory, Series


@dataclass(frozen=True)
class ModelSubject(Stepping):
    """A model, and what trains it.

    Attributes:
        methods: Oscillation methods.
        example: An input: a tensor, or a tuple of positional inputs; None: none is at hand.
        batches: Inputs for statistics of batch norms; None: none are at hand.
        why: Why there is no example, or there are no batches.
        live: Whether it is being trained, and may have gradients; else it was built from a checkpoint.
    """

    methods: tuple[Method, ...] = ()
    example: Any = None
    batches: tuple[Tensor, ...] | None = None
    why: str = "no example was given"
    live: bool = True

    @cached_property
    def weight_codes(self) -> dict[str, Codes]:
        """How the codes of each weight are used."""
        return {site.name: codes_of_weights(site) for site in self.sites}

    @cached_property
    def seen(self) -> dict[str, Seen]:
        """What the example brought to each quantizer; one that it did not reach is missing.

        Raises:
            Unknown: Without an example.
        """
        if self.example is None:
            raise Unknown(self.why)
        if any(not quantizer.is_calibrated for quantizer in self.quantizers.values()):
            raise Unknown("quantizers without a range cannot run")
        return watch_example(self.model, self.quantizers, self.example)

    @cached_property
    def stale(self) -> dict[str, float]:
        """How far the running statistics of each batch norm are from the batches', in nats.

        Raises:
            Unknown: Without enough images.
        """
        if self.batches is None:
            raise Unknown(self.why)
        if any(not quantizer.is_calibrated for quantizer in self.quantizers.values()):
            raise Unknown("quantizers without a range cannot run")
        return divergences(self.model, self.batches)


@dataclass(frozen=True)
class RunSubject:
    """A run, as its record tells it.

    Attributes:
        history: What the record says.
        skipped: Images that could not be read.
        has_batchnorm: Whether the network has batch norms; None: there is no checkpoint that tells.
        num_classes: Width of the classifier; None likewise.
        idle_seconds: Since the record was last written.
        has_checkpoint: Whether there is one to resume from.
        unreadable: What is wrong with it; empty: nothing.
    """

    history: RunHistory
    skipped: tuple[str, ...] = ()
    has_batchnorm: bool | None = None
    num_classes: int | None = None
    idle_seconds: float = 0.0
    has_checkpoint: bool = True
    unreadable: str = ""

    def setting(self, path: str, default: Any = None) -> Any:
        """Return a value of the recipe by its path, as in `freezing.ema_momentum`; `default` where there is none."""
        value: Any = self.history.recipe
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                return default
        return value

    def series(self, name: str) -> Series:
        """Return a figure of training.

        Raises:
            Unknown: If the record has fewer than two of it.
        """
        return _enough(self.history.steps.get(name), name)

    def evaluations(self, name: str) -> Series:
        """Return a figure of epochs.

        Raises:
            Unknown: If the record has fewer than two of it.
        """
        return _enough(self.history.epochs.get(name), name)

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run, as its recipe has them."""
        epochs = sum(self.setting(key, 0) for key in ("training.epochs", "training.cooldown_epochs", "annealing.epochs"))
        return max(int(epochs) * self.history.steps_per_epoch, self.num_steps)

    @property
    def scheduled_steps(self) -> int:
        """Optimizer steps that schedules take, and from which the defaults of methods follow."""
        return int(self.setting("training.epochs", 0)) * self.history.steps_per_epoch

    @property
    def num_steps(self) -> int:
        """Optimizer steps of which the record knows."""
        ends = [one.steps[-1] for one in (*self.history.steps.values(), *self.history.epochs.values()) if one.steps]
        return max(ends, default=0)


@dataclass(frozen=True)
class FileSubject:
    """An exported file.

    Attributes:
        path: Where it lies.
        inspection: What is in it.
    """

    path: Path
    inspection: Inspection


Subject = ModelSubject | RunSubject | FileSubject


def _enough(found: Series | None, name: str) -> Series:
    if found is None or len(found.values) < 2:
        raise Unknown(f"the record has no {name} over time")
    return found


def finite(tensor: Tensor) -> bool:
    """Whether all elements are finite; of integers all are."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
