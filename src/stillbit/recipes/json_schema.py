"""The JSON schema of recipes, by which editors complete and check YAML."""

import inspect
import re
import typing
from typing import Any, get_args, get_origin

from stillbit.recipes.mapping import reader
from stillbit.recipes.schema import Recipe
from stillbit.recipes.section import Section, option_sources, recipe_options

_ARGUMENT = re.compile(r"^    (\w+): (.+(?:\n {8,}.+)*)", re.MULTILINE)  # of a docstring's Args or Attributes
# What a recipe file may have beside the fields of `Recipe`, at its top.
_OF_THE_FILE = {
    "base": {"type": "string", "description": "A shipped recipe, or the path of a YAML file, that this one is laid over."},
    "published": {"type": "boolean", "description": "`published` of every section that has one and does not say otherwise."},
}


def json_schema() -> dict[str, Any]:
    """Return the schema of a recipe file. Every key may be missing, since the recipe of its `base` may have it."""
    schema = reader(Recipe).json_schema()
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema["prefixItems"][0],
        "$defs": schema["$defs"],
    }
    kinds = _dataclasses(Recipe)
    for name, one in found["$defs"].items():
        _describe(one, (kinds[name],))
    recipe = found["$defs"]["Recipe"]
    for name, annotation in typing.get_type_hints(Recipe).items():
        for member in get_args(annotation):
            if get_origin(member) is Section:
                _describe_options(recipe["properties"][name]["anyOf"][0], get_args(member)[0])
    recipe["properties"] = _OF_THE_FILE | recipe["properties"]
    return found


def _dataclasses(kind: type[Any]) -> dict[str, type[Any]]:
    """Return a dataclass and those in it, at any depth, by name."""
    found = {kind.__name__: kind}
    for annotation in typing.get_type_hints(kind).values():
        for one in (annotation, *get_args(annotation)):
            if hasattr(one, "__dataclass_fields__"):
                found |= _dataclasses(one)
    return found


def _describe(schema: dict[str, Any], kinds: tuple[type[Any], ...]) -> None:
    """Say of an object and its keys what docstrings say of its classes and their arguments."""
    text = "\n".join(inspect.getdoc(kind) or "" for kind in kinds)
    told = dict(_ARGUMENT.findall(text))
    schema.pop("required", None)
    schema.pop("title", None)
    schema["description"] = " ".join(text.partition("\n\n")[0].split())
    for name, one in schema["properties"].items():
        one.pop("title", None)
        if name in told:
            one["description"] = " ".join(told[name].split())


def _describe_options(schema: dict[str, Any], kind: type[Any]) -> None:
    _describe(schema, option_sources(kind))
    for name, option in recipe_options(kind).items():
        schema["properties"][name]["default"] = option.default
