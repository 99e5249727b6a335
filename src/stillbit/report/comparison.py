"""Several runs side by side: runs of one recipe that differ in the seed alone are one group, with a mean and a spread."""

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillbit.recipes.keys import CHANGE_NO_NUMBER
from stillbit.report.history import RunHistory

_SEED = re.compile(r"seed[-_ ]?\d+", re.IGNORECASE)
_METHODS = ("freezing", "dampening", "annealing", "distillation")


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Attributes:
        title: How it quantizes, and what else sets it apart from the other groups; network and data only where groups differ in them.
        members: Places of its runs among all.
        seeds: One a run.
    """

    title: str
    members: tuple[int, ...]
    seeds: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """A figure of a group.

    Attributes:
        mean: Over the runs that have it.
        deviation: Sample standard deviation; None for a single run.
        low: Smallest.
        high: Largest.
        count: Runs that have it.
    """

    mean: float
    deviation: float | None
    low: float
    high: float
    count: int


def group_runs(histories: Sequence[RunHistory]) -> list[Group]:
    """Put runs together that differ in the seed alone, or in what changes no number.

    Paths count as equal if they differ in a `seed<number>` alone: each seed may start from float weights of its own.
    """
    recipes = [dict(_decisive(history.recipe)) for history in histories]
    members: list[list[int]] = []
    for place, recipe in enumerate(recipes):
        group = next((group for group in members if recipes[group[0]] == recipe), None)
        if group is None:
            members.append([place])
        else:
            group.append(place)
    firsts = [group[0] for group in members]
    titles = _titles([histories[first] for first in firsts], [recipes[first] for first in firsts])
    return [
        Group(title, tuple(group), tuple(seed_of(histories[place]) for place in group))
        for title, group in zip(titles, members, strict=True)
    ]


def seed_of(history: RunHistory) -> str:
    """Return a run's seed, or a dash for a record that does not say it."""
    return str(_section(history.recipe, "training").get("seed", "-"))


def subject_of(recipe: Mapping[str, Any]) -> str:
    """Return which network a recipe trains on which data, as in `small_mobilenet, digits`."""
    names = (_section(recipe, section).get("name") for section in ("model", "data"))
    return ", ".join(str(name) for name in names if name)


def treatment_of(recipe: Mapping[str, Any]) -> str:
    """Return how a recipe quantizes, as in `W3A3 LSQ, freezing`."""
    quantization = _section(recipe, "quantization")
    width = "float"
    if quantization:
        width = f"W{quantization.get('weight_bits', '?')}A{quantization.get('activation_bits', '?')}"
        width = f"{width} {_quantizer(quantization)}".rstrip()
    return ", ".join((width, *(method for method in _METHODS if recipe.get(method))))


def title_of(recipe: Mapping[str, Any]) -> str:
    """Return what a recipe trains, as in `small_mobilenet, digits, W3A3 LSQ, freezing`."""
    return ", ".join(part for part in (subject_of(recipe), treatment_of(recipe)) if part)


def last(history: RunHistory, name: str) -> float | None:
    """Return the last finite value of a figure: of the epochs if they have it, else of the steps."""
    series = history.epochs.get(name) or history.steps.get(name)
    finite = [value for value in series.values if math.isfinite(value)] if series else []
    return finite[-1] if finite else None


def best(history: RunHistory, name: str) -> float | None:
    """Return the largest finite value of a figure of the epochs."""
    series = history.epochs.get(name)
    return max((value for value in series.values if math.isfinite(value)), default=None) if series else None


def total_bytes(history: RunHistory) -> float | None:
    """Return the size of a network with its codes packed; None if the record has no sizes."""
    return float(sum(layer.facts.num_bytes for layer in history.layers) + history.other_bytes) or None


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return mean and spread of a figure over runs."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return Spread(math.fsum(found) / len(found), deviation, min(found), max(found), len(found))


def _decisive(recipe: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Return what decides a run's numbers, one key path a value."""
    for key, value in recipe.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and value:
            yield from _decisive(value, f"{name}.")
        elif name != "training.seed" and name not in CHANGE_NO_NUMBER:
            yield name, _SEED.sub("seed", value) if isinstance(value, str) else repr(value)


def _titles(histories: Sequence[RunHistory], recipes: Sequence[Mapping[str, str]]) -> list[str]:
    """Return each group a title of its own: equal ones are told apart by the keys in which their recipes differ."""
    one_subject = len({subject_of(history.recipe) for history in histories}) == 1
    titles = [(treatment_of if one_subject else title_of)(history.recipe) for history in histories]
    found = []
    for title, recipe in zip(titles, recipes, strict=True):
        rivals = [other for other, same in zip(recipes, titles, strict=True) if same == title]
        names = sorted({name for each in rivals for name in each})
        differing = [name for name in names if len({each.get(name) for each in rivals}) > 1]
        shown = [f"{name}={recipe.get(name, 'absent')}" for name in differing[:3]]
        shown += ["..."] * (len(differing) > 3)
        found.append(f"{title} ({', '.join(shown)})" if shown else title)
    return found


def _quantizer(quantization: Mapping[str, Any]) -> str:
    given = str(quantization.get("quantizer", ""))
    return {"lsq": "LSQ", "statsq": "StatsQ"}.get(given, given)


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = recipe.get(name)
    return found if isinstance(found, Mapping) else {}
