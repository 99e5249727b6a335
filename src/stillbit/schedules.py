"""Schedules: pure functions from the number of an optimizer step to a value.

One kind serves the learning rate, the dampening weight and the freezing threshold. Steps count from 1, as the
published schedules do, so `end` is the value of the very last step. A schedule holds no state.

The cosine is the annealing of "Overcoming Oscillations in Quantization-Aware Training" (arXiv 2203.11086, section 4).
Deviates from its reference code in: the value stays at `end` after the last step; `begin=1` does not divide by zero.
"""

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """Anything that maps a step to a value; the classes of this file, or a function of your own."""

    def __call__(self, step: float, /) -> float:
        """Return the value that holds during optimizer step `step`, counted from 1."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same value at every step.

    Args:
        value: The value.

    Raises:
        ValueError: If the value is not finite.
    """

    value: float

    def __post_init__(self) -> None:
        _check_finite(value=self.value)

    def __call__(self, step: float, /) -> float:  # noqa: ARG002 - every schedule takes the step
        """Return the value; `step` does not matter."""
        return self.value


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` at `begin * steps` to `end` at `steps`.

    Args:
        start: Value where the line begins.
        end: Value at `steps`, and after it.
        steps: Number of the last step.
        begin: Fraction of `steps` at which the line begins, 0 to 1. The product is not rounded.
        before: Value earlier than that; `None` means `start`.

    Raises:
        ValueError: If a value is not finite, `steps` is not positive, or `begin` is outside 0 to 1.
    """

    start: float
    end: float
    steps: float
    begin: float = 0.0
    before: float | None = None

    def __post_init__(self) -> None:
        _check_annealing(self.start, self.end, self.steps, self.begin, self.before)

    def __call__(self, step: float, /) -> float:
        """Return the value at `step`."""
        first = self.begin * self.steps
        if step < first:  # 1. not begun
            return self.start if self.before is None else self.before
        if step >= self.steps:  # 2. done; with begin=1 there is nothing between 1 and 2
            return self.end
        progress = (step - first) / (self.steps - first)
        return self.start + (self.end - self.start) * progress  # 3. on the way


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `start` at `begin * steps` to `end` at `steps`.

    Args:
        start: Value where the cosine begins.
        end: Value at `steps`, and after it.
        steps: Number of the last step.
        begin: Fraction of `steps` at which the cosine begins, 0 to 1. The product is not rounded.
        before: Value earlier than that; `None` means `start`.
        published: Do as the published code does: after `steps` the cosine turns back towards `start`.

    Raises:
        ValueError: If a value is not finite, `steps` is not positive, or `begin` is outside 0 to 1.
    """

    start: float
    end: float
    steps: float
    begin: float = 0.0
    before: float | None = None
    published: bool = False

    def __post_init__(self) -> None:
        _check_annealing(self.start, self.end, self.steps, self.begin, self.before)

    def __call__(self, step: float, /) -> float:
        """Return the value at `step`."""
        first = self.begin * self.steps
        if step < first:  # 1. not begun
            return self.start if self.before is None else self.before
        if first == self.steps or (step >= self.steps and not self.published):  # 2. done
            return self.end
        progress = (step - first) / (self.steps - first)
        return self.end + 0.5 * (self.start - self.end) * (1.0 + math.cos(math.pi * progress))  # 3. on the way


@dataclass(frozen=True)
class MultiStep:
    """A staircase: the value is multiplied by `factor` at each milestone.

    Args:
        start: Value before the first milestone.
        milestones: Ascending steps; from a milestone on, that step included, its factor holds.
        factor: What each milestone multiplies by.

    Raises:
        ValueError: If a value is not finite, or the milestones do not ascend.
    """

    start: float
    milestones: tuple[float, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check_finite(start=self.start, factor=self.factor)
        if any(later <= earlier for earlier, later in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"milestones is {list(self.milestones)}; allowed: ascending steps")

    def __call__(self, step: float, /) -> float:
        """Return the value at `step`."""
        passed = sum(milestone <= step for milestone in self.milestones)
        return self.start * self.factor**passed


def as_schedule(value: float | Schedule) -> Schedule:
    """Let a plain number stand where a schedule is expected."""
    return value if callable(value) else Constant(float(value))


def _check_annealing(start: float, end: float, steps: float, begin: float, before: float | None) -> None:
    _check_finite(start=start, end=end, steps=steps, before=0.0 if before is None else before)
    if steps <= 0:
        raise ValueError(f"steps is {steps}; allowed: more than 0")
    if not 0.0 <= begin <= 1.0:
        raise ValueError(f"begin is {begin}; allowed: 0 to 1, a fraction of steps")


def _check_finite(**values: float) -> None:
    for name, given in values.items():
        if not math.isfinite(given):
            raise ValueError(f"{name} is {given}; allowed: a finite number")
