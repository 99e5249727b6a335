"""A mapping becomes a frozen dataclass, strictly, and back.

Nothing is guessed and nothing is ignored: each error names the full path of the key, what was given, and what is allowed. Pydantic reads
the dataclasses by their annotations; they need no base class and no registration.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from stillbit.errors import RecipeError, nearest
from stillbit.options import allowed_numbers
from stillbit.recipes.section import Section, recipe_options

Config = TypeVar("Config")

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    Path: "a path",
    types.NoneType: "null",
}


def from_mapping(config: type[Config], given: object) -> Config:
    """Build a dataclass from a mapping of its fields; what is not given there, in nested ones too, has its default."""
    # As JSON: a list is read as a tuple and text as a path, and nothing else is converted.
    content = json.dumps([_over_defaults(config, _plain(given))])
    try:
        (value,) = reader(typing.cast(Hashable, config)).validate_json(content)
    except ValidationError as error:
        # A key that is unknown explains what else is wrong; of a union, the member that was read furthest was meant.
        first = min(error.errors(include_url=False), key=lambda one: (one["type"] not in _UNKNOWN, -len(one["loc"])))
        raise RecipeError(_message(config, first)) from None
    return typing.cast(Config, value)


def to_mapping(config: object) -> dict[str, Any]:
    """Return the fields of a dataclass, nested ones too, as YAML can hold them."""
    fields = dataclasses.fields(typing.cast(Any, config))
    return {field.name: _plain(getattr(config, field.name)) for field in fields if field.init}


@functools.cache
def reader(config: Hashable) -> TypeAdapter[tuple[Any]]:
    """Return the strict reader of a dataclass: of a tuple of one, since pydantic takes settings for no dataclass that is not its own."""
    return TypeAdapter(tuple[config], config=_STRICT)  # type: ignore[arg-type, valid-type]


def _over_defaults(config: type[Any], given: Any) -> Any:
    """Lay a mapping over the nested dataclasses that are defaults of this one's fields."""
    if not isinstance(given, Mapping):
        return given
    nested = {field.name: _plain(default) for field in dataclasses.fields(config) if dataclasses.is_dataclass(default := _default(field))}
    return {key: merged(nested.get(key), value) for key, value in given.items()}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def merged(below: object, above: object) -> object:
    """Lay a document over another: mappings are merged, all else is replaced."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def _message(config: type[Any], error: ErrorDetails) -> str:
    parent: Any = None
    kind: Any = config
    path = ""
    for key in error["loc"][1:]:
        parent = kind
        if _is_union(kind):  # the key names the member that was tried
            member = next((one for one in get_args(kind) if dataclasses.is_dataclass(one) and getattr(one, "__name__", "") == key), None)
            if member is None:
                break
            kind = member
        else:
            kind, path = _or_null(_item(kind, key)), _join(path, key)
    if error["type"] in _UNKNOWN:
        return f"{path}: unknown key{nearest(str(error['loc'][-1]), _keys(parent))}"
    if error["type"] == "missing":
        return f"{path}: missing, and it has no default"
    if error["type"] == "value_error":  # the dataclass's own check; of one field it says "FIELD is VALUE; allowed: ..."
        message = str(error["ctx"]["error"])
        return _join(path, message) if message.partition(" is ")[0] in _keys(kind) else f"{path or 'recipe'}: {message}"
    return f"{path or 'recipe'} is {_show(error['input'])}; allowed: {_allowed(kind, error['input'])}"


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _or_null(kind: Any) -> Any:
    """Return the one other member of a union with null; of that, pydantic's errors say nothing."""
    members = [one for one in get_args(kind) if one is not types.NoneType]
    return members[0] if _is_union(kind) and len(members) == 1 else kind


def _item(kind: Any, key: int | str) -> Any:
    if get_origin(kind) in (dict, Mapping):
        return get_args(kind)[1]
    return get_args(kind)[0] if get_origin(kind) is tuple else _keys(kind).get(str(key))


def _keys(kind: Any) -> dict[str, Any]:
    """Return what a mapping may hold: annotations by name."""
    if get_origin(kind) is Section:
        return {name: one.annotation for name, one in recipe_options(get_args(kind)[0]).items()}
    return typing.get_type_hints(kind, include_extras=True) if dataclasses.is_dataclass(kind) else {}


def _allowed(kind: Any, given: object) -> str:
    origin, members = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) or origin is Section:
        return "a mapping of keys to values"
    if origin is Literal:
        return ", ".join(map(str, members))
    if origin is tuple:
        return f"a list, each {_name(members[0])}"
    if origin in (dict, Mapping):
        return f"a mapping, each value {_name(members[1])}"
    number = isinstance(given, int | float) and not isinstance(given, bool)
    return allowed_numbers(kind) if number and get_origin(kind) is Annotated else _name(kind)


def _name(kind: Any) -> str:
    if _is_union(kind):
        return " or ".join(map(_name, get_args(kind)))
    if get_origin(kind) is Annotated:
        return _name(kind.__origin__)
    return "a mapping" if dataclasses.is_dataclass(kind) else _NAMES.get(kind, str(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return _plain(value.options)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _show(given: object) -> str:
    if isinstance(given, Mapping | list):
        return "a mapping" if isinstance(given, Mapping) else "a list"
    return json.dumps(given) if given is None or isinstance(given, bool) else repr(given)


def _join(path: str, key: object) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)
