"""Learning rates as pure functions of the step: nothing to save, nothing to step, exact after any resume."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from stillbit.errors import RecipeError
from stillbit.schedules import Constant, Cosine, Linear, MultiStep, Schedule
from stillbit.training.timetable import Timetable


@dataclass(frozen=True)
class ScheduleConfig:
    """How a learning rate moves from its initial value.

    Args:
        kind: `constant`, `linear` or `cosine` down to `end`, or `multistep`.
        end: Value that `linear` and `cosine` end at.
        milestones: Where `multistep` multiplies by `factor`: completed epochs, or steps.
        factor: Of `multistep`.
        warmup_epochs: Epochs at the beginning in which the rate rises from `warmup_start` to the initial value, in a straight line. The
            schedule itself is not moved: after them the rate is what it would be without (as in timm). A run with fewer stays below.
        warmup_start: Value at the first epoch's beginning.
        per: `epoch` sets the rate once per epoch, as published: epoch e of E, counted from 0, has the value at e / E,
            so the end value itself is never reached. `step` moves at every optimizer step and ends at the last.

    Raises:
        RecipeError: If a value is out of range.
    """

    kind: Literal["constant", "linear", "cosine", "multistep"] = "constant"
    end: float = 0.0
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    warmup_epochs: int = 0
    warmup_start: float = 0.0
    per: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        kinds = ("constant", "linear", "cosine", "multistep")
        if self.kind not in kinds:
            raise RecipeError(f"kind is {self.kind!r}; allowed: {', '.join(kinds)}")
        if self.per not in ("epoch", "step"):
            raise RecipeError(f"per is {self.per!r}; allowed: epoch, step")
        if (self.kind == "multistep") != bool(self.milestones):
            raise RecipeError(f"milestones is {list(self.milestones)} with kind {self.kind}; allowed: with multistep")
        if self.warmup_epochs < 0:
            raise RecipeError(f"warmup_epochs is {self.warmup_epochs}; allowed: 0 or more")
        if self.warmup_start < 0.0 or (self.warmup_start and not self.warmup_epochs):
            raise RecipeError(f"warmup_start is {self.warmup_start}; allowed: 0 or more, above 0 only with warmup_epochs")

    def build(self, start: float, epochs: int, steps_per_epoch: int) -> Schedule:
        """Return the schedule.

        Args:
            start: Initial learning rate.
            epochs: Number of epochs that it takes.
            steps_per_epoch: Optimizer steps of an epoch.

        Returns:
            A function of completed epochs, or of the step counted from 1, as `per` says.
        """
        unit = steps_per_epoch if self.per == "step" else 1
        schedule = self._without_warmup(start, epochs * unit)
        if not self.warmup_epochs:
            return schedule
        return _WarmedUp(schedule, Linear(self.warmup_start, start, self.warmup_epochs * unit))

    def _without_warmup(self, start: float, length: int) -> Schedule:
        if self.kind == "linear":
            return Linear(start, self.end, length)
        if self.kind == "cosine":
            return Cosine(start, self.end, length)
        if self.kind == "multistep":
            return MultiStep(start, self.milestones, self.factor)
        return Constant(start)


@dataclass(frozen=True)
class _WarmedUp:
    """A schedule whose first steps are replaced by a rising line."""

    schedule: Schedule
    rise: Linear

    def __call__(self, step: float, /) -> float:
        return self.rise(step) if step < self.rise.steps else self.schedule(step)


class LearningRates:
    """Sets the learning rate of every parameter group before a step.

    Args:
        optimizer: Its groups' present learning rates are the initial ones.
        schedules: One a group; empty means constant rates.
        timetable: Epochs of the whole run.
        steps_per_epoch: Optimizer steps of an epoch.

    Raises:
        RecipeError: If the number of schedules is not that of the groups.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedules: Sequence[ScheduleConfig], timetable: Timetable, steps_per_epoch: int
    ) -> None:
        groups = optimizer.param_groups
        configs = tuple(schedules) or (ScheduleConfig(),) * len(groups)
        if len(configs) != len(groups):
            raise RecipeError(f"schedules: {len(configs)} given, allowed: {len(groups)}, one a parameter group")
        epochs = max(timetable.epochs, 1)  # a run of nothing but its final stage never asks the schedules
        self._optimizer = optimizer
        self._steps_per_epoch = steps_per_epoch
        self._timetable = timetable
        self._per = [config.per for config in configs]
        self._schedules = [config.build(group["lr"], epochs, steps_per_epoch) for config, group in zip(configs, groups, strict=True)]

    def at(self, step: int) -> list[float]:
        """Return the learning rate of each group.

        Args:
            step: Number of the optimizer step, counted from 1.

        Returns:
            One rate a group.
        """
        epoch = (step - 1) // self._steps_per_epoch
        final_stage = self._timetable.final_stage
        if final_stage is not None and epoch >= self._timetable.before_final_stage:
            return [final_stage.lr] * len(self._schedules)
        position = {"epoch": epoch, "step": step}
        return [schedule(position[per]) for schedule, per in zip(self._schedules, self._per, strict=True)]

    def set(self, step: int) -> None:
        """Write the rates of a step into the optimizer.

        Args:
            step: Number of the optimizer step that comes next, counted from 1.
        """
        for group, rate in zip(self._optimizer.param_groups, self.at(step), strict=True):
            group["lr"] = rate
