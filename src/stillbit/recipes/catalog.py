"""The recipes that ship with the package: one YAML file each, opened by a comment that says its goal and command."""

from importlib import resources
from pathlib import Path

from stillbit.errors import RecipeError, nearest

_SUFFIX = ".yaml"


def names() -> list[str]:
    """Return the names of all shipped recipes, sorted."""
    folder = resources.files("stillbit.recipes")
    return sorted(entry.name.removesuffix(_SUFFIX) for entry in folder.iterdir() if entry.name.endswith(_SUFFIX))


def text(name: str) -> str:
    """Return a recipe as it was written, comments included."""
    if name in names():
        return (resources.files("stillbit.recipes") / f"{name}{_SUFFIX}").read_text(encoding="utf-8")
    path = Path(name)
    looks_like_a_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    if not looks_like_a_path:
        raise RecipeError(f"unknown recipe '{name}'{nearest(name, names())}")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"recipe {name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"recipe {name}: not a text file") from None


def goal(name: str) -> str:
    """Return the first line of a recipe's opening comment."""
    first = text(name).splitlines()[0]
    return first.removeprefix("#").strip()
