"""A mapping becomes a frozen dataclass, strictly, and back.

Nothing is guessed and nothing is ignored: each error names the full path of the key, what was given, and what is
allowed. The dataclasses need no base class and no registration; their annotations are the schema.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from stillbit.errors import RecipeError
from stillbit.recipes.section import Section, recipe_options
from stillbit.schedules import Schedule

Config = TypeVar("Config")


def from_mapping(config: type[Config], given: object, path: str = "", base: Config | None = None) -> Config:
    """Build a dataclass from a mapping of its fields."""
    if not isinstance(given, Mapping):
        raise RecipeError(f"{path or 'recipe'} is {_show(given)}; allowed: a mapping of keys to values")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, config)) if field.init}
    for key in given:
        if key not in fields:
            raise RecipeError(f"{_join(path, key)}: unknown key{nearest(str(key), fields)}")
    inherited = {name: _default(field) if base is None else getattr(base, name) for name, field in fields.items()}
    annotations = typing.get_type_hints(config)
    values = {
        name: _convert(annotations[name], given[name], _join(path, name), default) if name in given else default
        for name, default in inherited.items()
    }
    for name, value in values.items():
        if value is dataclasses.MISSING:
            raise RecipeError(f"{_join(path, name)}: missing, and it has no default")
    try:
        return config(**values)
    except ValueError as error:  # the dataclass's own check; of one field it says "FIELD is VALUE; allowed: ..."
        message = str(error)
        named = message.partition(" is ")[0] in fields
        raise RecipeError(_join(path, message) if named else f"{path or 'recipe'}: {message}") from None


def to_mapping(config: object) -> dict[str, Any]:
    """Give the fields of a dataclass, nested ones too, as YAML can hold them."""
    fields = dataclasses.fields(typing.cast(Any, config))
    return {field.name: _plain(getattr(config, field.name)) for field in fields if field.init}


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Say which of the allowed names is meant: `; did you mean 'x'?`, or the whole list where none is near."""
    names = list(allowed)
    found = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else f"; allowed: {', '.join(names)}"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _convert(annotation: Any, given: object, path: str, base: object = None) -> Any:
    origin = get_origin(annotation)
    if origin is Section:
        return _section(get_args(annotation)[0], given, path)
    if origin is Annotated:
        return _convert(annotation.__origin__, given, path)
    if dataclasses.is_dataclass(annotation):
        kind = typing.cast(type, annotation)
        return from_mapping(kind, given, path, base if isinstance(base, kind) else None)
    if origin is Literal:
        return _one_of(get_args(annotation), given, path)
    if origin in (Union, types.UnionType):
        return _first_fit(get_args(annotation), given, path, base)
    if origin is tuple:
        return _sequence(get_args(annotation)[0], given, path)
    if origin in (dict, Mapping):
        return _table(get_args(annotation)[1], given, path)
    return _leaf(annotation, given, path)


def _section(kind: type[Any], given: object, path: str) -> Section[Any]:
    """Read the options of a method: what its constructor takes, a number where it also takes a schedule."""
    if not isinstance(given, Mapping):
        raise RecipeError(f"{path} is {_show(given)}; allowed: a mapping of keys to values")
    known = recipe_options(kind)
    for key in given:
        if key not in known:
            raise RecipeError(f"{_join(path, key)}: unknown key{nearest(str(key), known)}")
    values = {name: _convert(_without_schedule(known[name].annotation), value, _join(path, name)) for name, value in given.items()}
    try:
        return Section.of(kind, **values)
    except RecipeError as error:
        raise RecipeError(_join(path, str(error))) from None


def _without_schedule(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    return Union[tuple(kind for kind in get_args(annotation) if kind is not Schedule)]  # noqa: UP007 - of a tuple


def _one_of(allowed: tuple[object, ...], given: object, path: str) -> object:
    # Compared with their types, so that True is not taken for 1.
    for value in allowed:
        if type(value) is type(given) and value == given:
            return value
    raise RecipeError(f"{path} is {_show(given)}; allowed: {', '.join(map(str, allowed))}")


def _first_fit(choices: tuple[Any, ...], given: object, path: str, base: object) -> object:
    kinds = [kind for kind in choices if kind is not types.NoneType]
    if given is None and len(kinds) < len(choices):
        return None
    if len(kinds) == 1:
        return _convert(kinds[0], given, path, base)
    nested = [kind for kind in kinds if dataclasses.is_dataclass(kind) or get_origin(kind) is Section]
    if isinstance(given, Mapping) and len(nested) == 1:  # a mapping can mean only this one: let it say what is wrong
        return _convert(nested[0], given, path, base)
    for kind in kinds:
        try:
            return _convert(kind, given, path)
        except RecipeError:
            continue
    raise RecipeError(f"{path} is {_show(given)}; allowed: {' or '.join(map(_name, choices))}")


def _sequence(item: Any, given: object, path: str) -> tuple[Any, ...]:
    if not isinstance(given, list | tuple):
        raise RecipeError(f"{path} is {_show(given)}; allowed: a list, each {_name(item)}")
    return tuple(_convert(item, value, f"{path}[{index}]") for index, value in enumerate(given))


def _table(item: Any, given: object, path: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise RecipeError(f"{path} is {_show(given)}; allowed: a mapping, each value {_name(item)}")
    return {str(key): _convert(item, value, _join(path, key)) for key, value in given.items()}


def _leaf(kind: Any, given: object, path: str) -> object:
    if kind is Path and isinstance(given, str):
        return Path(given)
    if kind is float and isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        return float(given)
    if type(given) is kind:
        return given if kind is not float else _refuse(kind, given, path)
    return _refuse(kind, given, path)


def _refuse(kind: Any, given: object, path: str) -> object:
    raise RecipeError(f"{path} is {_show(given)}; allowed: {_name(kind)}")


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    Path: "a path",
    types.NoneType: "null",
}


def _name(kind: Any) -> str:
    if dataclasses.is_dataclass(kind) or get_origin(kind) is Section:
        return "a mapping"
    if get_origin(kind) is Annotated:
        return _name(kind.__origin__)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return _NAMES.get(kind, str(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return _plain(value.options)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _show(given: object) -> str:
    if isinstance(given, Mapping | list):
        return "a mapping" if isinstance(given, Mapping) else "a list"
    if given is None or isinstance(given, bool):
        return {None: "null", True: "true", False: "false"}[given]
    return repr(given)


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
