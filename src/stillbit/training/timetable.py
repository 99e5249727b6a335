"""The epochs of a run: how many, and which of them its learning rate schedules take."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt

from stillbit.errors import RecipeError
from stillbit.options import Count, check_fields


@dataclass(frozen=True, kw_only=True)
class FinalStage:
    """Epochs after all others, at one learning rate for every group.

    Args:
        epochs: Their number.
        lr: The rate.
    """

    epochs: Count = 30
    lr: Annotated[float, Gt(0.0), Lt(float("inf"))] = 1e-5

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Timetable:
    """The epochs of a run: scheduled ones, cool-down at the schedules' last values, and a final stage.

    Args:
        epochs: Those that the schedules take; 0 where the final stage is the whole run.
        cooldown_epochs: Those after them.
        final_stage: Those at the end; None: no more.

    Raises:
        RecipeError: If there is no epoch, or a cool-down without an epoch before it.

    Examples:
        >>> Timetable(300, 10, FinalStage(epochs=30, lr=1e-5)).total
        340
    """

    epochs: int
    cooldown_epochs: int = 0
    final_stage: FinalStage | None = None

    def __post_init__(self) -> None:
        if self.total < 1:
            raise RecipeError(f"epochs is {self.epochs}; allowed: 1 or more, 0 only where an annealing stage follows")
        if self.cooldown_epochs and not self.epochs:
            raise RecipeError(f"cooldown_epochs is {self.cooldown_epochs} with epochs 0; allowed: 0")

    @property
    def before_final_stage(self) -> int:
        """Epochs before the final stage; all of them where there is none."""
        return self.epochs + self.cooldown_epochs

    @property
    def total(self) -> int:
        """All epochs."""
        return self.before_final_stage + (self.final_stage.epochs if self.final_stage else 0)
