"""A method in a recipe: its class, and the options that its constructor takes. The class alone has defaults and bounds."""

from collections.abc import Mapping
from inspect import Parameter
from types import UnionType
from typing import Any, Generic, TypeVar, Union, final, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function, typed_dict_field, typed_dict_schema
from torch import nn

from stillbit.options import check, options_of
from stillbit.oscillation import Annealing, Method
from stillbit.schedules import Schedule
from stillbit.training.timetable import FinalStage

Kind = TypeVar("Kind", bound=Method)

_OF_THE_RUN: dict[type, tuple[str, ...]] = {Annealing: ("begin",)}  # what the run decides, not its recipe; of all others, its steps
_STAGES: dict[type, type[FinalStage]] = {Annealing: FinalStage}  # methods that bring epochs of their own


@final
class Section(Generic[Kind]):  # no dataclass: pydantic would read it by its fields
    """A method to be.

    Attributes:
        kind: Its class.
        options: Those of its constructor that a recipe decides, defaults included.
    """

    def __init__(self, kind: type[Kind], options: Mapping[str, Any]) -> None:
        self.kind = kind
        self.options = options

    def __eq__(self, other: object) -> bool:
        """Whether both make the same method."""
        return isinstance(other, Section) and (self.kind, self.options) == (other.kind, other.options)

    __hash__ = None  # type: ignore[assignment]

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

    @classmethod
    def __get_pydantic_core_schema__(cls, section: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tell pydantic to read `Section[Freezing]` from the options of the class."""
        (kind,) = get_args(section)
        fields = {
            name: typed_dict_field(handler.generate_schema(one.annotation), required=False) for name, one in recipe_options(kind).items()
        }
        return no_info_after_validator_function(lambda given: cls.of(kind, **given), typed_dict_schema(fields, extra_behavior="forbid"))

    @property
    def stage(self) -> FinalStage:
        """The epochs that the method brings."""
        stage = _STAGES[self.kind]
        return stage(**{name: self.options[name] for name in options_of(stage)})


def recipe_options(kind: type) -> dict[str, Parameter]:
    """Return what a recipe may say of a method, by name: a number where the constructor also takes a schedule."""
    options = {name: one for source in option_sources(kind) for name, one in options_of(source).items()}
    decided = _OF_THE_RUN.get(kind, ("steps",))
    return {name: one.replace(annotation=_without_schedule(one.annotation)) for name, one in options.items() if name not in decided}


def option_sources(kind: type) -> tuple[type, ...]:
    """Return the classes whose constructors take a method's options: its own, and its stage's."""
    return (kind, _STAGES[kind]) if kind in _STAGES else (kind,)


def _without_schedule(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    return Union[tuple(kind for kind in get_args(annotation) if kind is not Schedule)]  # noqa: UP007 - of a tuple
