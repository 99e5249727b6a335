"""A method in a recipe: its class, and the options that its constructor takes. The class alone has defaults and bounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Generic, TypeVar

from torch import nn

from stillbit.options import check, options_of
from stillbit.oscillation import Annealing, Method
from stillbit.training.timetable import FinalStage

Kind = TypeVar("Kind", bound=Method)

_OF_THE_RUN: dict[type, tuple[str, ...]] = {Annealing: ("begin",)}  # what the run decides, not its recipe; of all others, its steps
_STAGES: dict[type, type[FinalStage]] = {Annealing: FinalStage}  # methods that bring epochs of their own


@dataclass(frozen=True)
class Section(Generic[Kind]):
    """A method to be.

    Attributes:
        kind: Its class.
        options: Those of its constructor that a recipe decides, defaults included.
    """

    kind: type[Kind]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, kind: type[Kind], **given: Any) -> "Section[Kind]":
        """Complete options by the defaults of the class.

        Raises:
            RecipeError: If a value is out of range.
        """
        known = recipe_options(kind)
        for name, value in given.items():
            check(name, value, known[name].annotation)
        return cls(kind, {name: given.get(name, one.default) for name, one in known.items()})

    def build(self, model: nn.Module, **of_the_run: Any) -> Kind:
        """Make the method for a model, and a run whose length and stages are known."""
        own = options_of(self.kind)
        return self.kind(model, **{name: value for name, value in self.options.items() if name in own}, **of_the_run)

    def __getattr__(self, name: str) -> Any:
        """Return an option."""
        if name in self.__dict__.get("options", ()):
            return self.options[name]
        raise AttributeError(name)

    @property
    def stage(self) -> FinalStage:
        """The epochs that the method brings."""
        stage = _STAGES[self.kind]
        return stage(**{name: self.options[name] for name in options_of(stage)})


def recipe_options(kind: type) -> dict[str, Parameter]:
    """Return what a recipe may say of a method, by name."""
    own = {name: one for name, one in options_of(kind).items() if name not in _OF_THE_RUN.get(kind, ("steps",))}
    return own | (options_of(_STAGES[kind]) if kind in _STAGES else {})
