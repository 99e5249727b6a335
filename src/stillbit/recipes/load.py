"""Find a recipe, lay overrides over it, and make it a `Recipe`; or write a `Recipe` back as YAML."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from stillbit.errors import RecipeError
from stillbit.recipes import catalog, document
from stillbit.recipes.keys import RENAMED
from stillbit.recipes.mapping import from_mapping, merged, to_mapping
from stillbit.recipes.schema import Recipe


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: A shipped recipe (`stillbit recipes` lists them), or the path of a YAML file.
        overrides: Assignments `key.path=value`, the value in YAML; of two for one key the last holds.

    Returns:
        The complete recipe; what neither the file nor an override says has its default.

    Raises:
        RecipeError: If there is no such recipe, a key is unknown, or a value has the wrong type or is out of range.
    """
    return resolve(with_base(document.parse(catalog.text(name), origin=name), name), overrides)


def with_base(content: object, name: str, above: tuple[str, ...] = ()) -> object:
    """Lay a document over the recipe that its `base` names, which may have one of its own; mappings are merged, all else is replaced.

    Args:
        content: What the recipe's YAML parses to.
        name: The recipe, in a folder of which a base that is a relative path is looked for.
        above: Recipes that this one is the base of.

    Raises:
        RecipeError: If there is no such recipe, or recipes are each other's base.
    """
    if not isinstance(content, Mapping) or "base" not in content:
        return content
    own = {key: value for key, value in content.items() if key != "base"}
    base = content["base"]
    if not isinstance(base, str):
        raise RecipeError(f"base is {base!r}; allowed: a shipped recipe, or the path of a YAML file")
    if base not in catalog.names() and Path(base).suffix:
        base = os.path.normpath(Path(name).parent / base)  # so that a circle across folders is seen
    if base in (*above, name):
        raise RecipeError(f"base is {base!r} in {name}, whose base it is itself; allowed: a recipe that does without {name}")
    below = with_base(document.parse(catalog.text(base), origin=base), base, (*above, name))
    return merged(below, own)


def resolve(content: object, overrides: Sequence[str] = ()) -> Recipe:
    """Make a recipe of what a document holds."""
    if not isinstance(content, Mapping):
        return from_mapping(Recipe, content)  # says what is allowed
    mapping = deepcopy(dict(content))
    for override in overrides:
        _assign(mapping, override)
    _rename(mapping)
    _spread_published(mapping)
    return from_mapping(Recipe, mapping)


def dump(recipe: Recipe) -> str:
    """Write a recipe with all its values, defaults too; `load` of that text gives an equal recipe."""
    return document.render(to_mapping(recipe))


def _rename(mapping: dict[str, Any]) -> None:
    for section, names in RENAMED.items():
        if isinstance(found := mapping.get(section), dict):
            for old, new in names.items():
                if old in found and new in found:
                    raise RecipeError(f"{section}.{old} is given beside {section}.{new}, its new name; allowed: {section}.{new} alone")
            mapping[section] = {names.get(key, key): value for key, value in found.items()}


def _spread_published(mapping: dict[str, Any]) -> None:
    """Let `published: true` of the whole recipe be that of every section that has one and does not say otherwise."""
    published = mapping.pop("published", False)
    if not isinstance(published, bool):
        raise RecipeError(f"published is {published!r}; allowed: true, false")
    if published and mapping.get("quantization", {}) is not None:
        mapping.setdefault("quantization", {})
    for name in ("quantization", "freezing", "annealing"):
        if published and isinstance(section := mapping.get(name), dict):
            section.setdefault("published", True)


def _assign(mapping: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not all([*parents, last]):
        raise RecipeError(f"override '{override}': allowed: key.path=value, as in training.epochs=3")
    for depth, key in enumerate(parents, start=1):
        inner = mapping.get(key)
        if inner is None:  # a section that the recipe leaves out, or switches off
            inner = mapping[key] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"override '{override}': {'.'.join(parents[:depth])} is a value; allowed: a section")
        mapping = inner
    mapping[last] = document.parse(value, origin=f"override '{override}'")
