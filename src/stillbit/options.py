"""Options of methods: keyword parameters whose annotations say what is allowed, checked alike by hand and in recipes.

>>> class Blur:
...     @checked
...     def __init__(self, image: str, *, radius: Portion = 0.5) -> None:
...         self.radius = radius
>>> Blur("a.png", radius=2.0)
Traceback (most recent call last):
stillbit.errors.RecipeError: radius is 2.0; allowed: above 0, at most 1
>>> options_of(Blur)["radius"].default
0.5
"""

import functools
import inspect
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, Any, Literal, ParamSpec, cast

from annotated_types import Ge, Gt, Le, Lt

from stillbit.errors import RecipeError

Portion = Annotated[float, Gt(0.0), Le(1.0)]  # of a whole, or a frequency per step
Fraction = Annotated[float, Ge(0.0), Le(1.0)]  # of the steps of a run
Weight = Annotated[float, Ge(0.0), Lt(float("inf"))]
Bits = Annotated[int, Ge(1), Le(8)]
PinnedBits = Annotated[int, Ge(1), Le(7)]  # pins have no room for more
Count = Annotated[int, Ge(1)]

_Given = ParamSpec("_Given")
_WORDS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}


def checked(init: Callable[_Given, None]) -> Callable[_Given, None]:
    """Let a constructor refuse a number that its annotation does not allow."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def check_and_init(*args: _Given.args, **kwargs: _Given.kwargs) -> None:
        annotations = _annotations(init)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check(name, value, annotations.get(name))
        init(*args, **kwargs)

    return check_and_init


def check(name: str, value: object, annotation: object) -> None:
    """Check a number against the bounds in its annotation, and a choice against its literals; anything else passes."""
    if typing.get_origin(annotation) is Literal and value not in typing.get_args(annotation):
        raise RecipeError(f"{name} is {value!r}; allowed: {', '.join(map(str, typing.get_args(annotation)))}")
    bounds = _bounds(annotation)
    if isinstance(value, int | float) and not isinstance(value, bool) and not all(_holds(bound, value) for bound in bounds):
        raise RecipeError(f"{name} is {value}; allowed: {_words(bounds)}")


def allowed_numbers(annotation: object) -> str:
    """Say in words which numbers an annotation allows."""
    return _words(_bounds(annotation))


def check_fields(value: object) -> None:
    """Check the fields of a dataclass against their annotations."""
    for name, annotation in _annotations(cast(Hashable, type(value))).items():
        check(name, getattr(value, name), annotation)


def options_of(kind: type) -> dict[str, inspect.Parameter]:
    """Return a class's options, its keyword-only parameters, by name; their annotations are resolved, bounds included."""
    annotations = _annotations(vars(kind)["__init__"])
    parameters = inspect.signature(kind).parameters.values()
    return {one.name: one.replace(annotation=annotations[one.name]) for one in parameters if one.kind is one.KEYWORD_ONLY}


@functools.cache
def _annotations(init: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(init if isinstance(init, type) else inspect.unwrap(init), include_extras=True)


def _bounds(annotation: Any) -> tuple[Any, ...]:
    """Return the bounds of an annotation; those of a union are its only bounded member's."""
    if typing.get_origin(annotation) is Annotated:
        return tuple(one for one in annotation.__metadata__ if type(one) in _WORDS)
    return next((found for one in typing.get_args(annotation) if (found := _bounds(one))), ())


def _holds(bound: Any, value: float) -> bool:
    return {Ge: value >= _limit(bound), Gt: value > _limit(bound), Le: value <= _limit(bound), Lt: value < _limit(bound)}[type(bound)]


def _limit(bound: Any) -> float:
    limit: float = getattr(bound, {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt"}[type(bound)])
    return limit


def _words(bounds: tuple[Any, ...]) -> str:
    kinds = tuple(type(bound) for bound in bounds)
    if kinds == (Ge, Le):
        return f"{_limit(bounds[0]):g} to {_limit(bounds[1]):g}"
    if kinds == (Ge,):
        return f"{_limit(bounds[0]):g} or more"
    if kinds == (Gt, Lt) and _limit(bounds[1]) != float("inf"):
        return f"between {_limit(bounds[0]):g} and {_limit(bounds[1]):g}"
    finite = "a finite number " if Lt in kinds and _limit(bounds[-1]) == float("inf") else ""
    return finite + ", ".join(f"{_WORDS[type(one)]} {_limit(one):g}" for one in bounds if _limit(one) != float("inf"))
