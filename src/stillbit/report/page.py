"""The page: one HTML file that holds its style, its scripts and its data, and asks no network for anything."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any

from stillbit.recipes.document import render
from stillbit.report.comparison import group_runs, seed_of, subject_of, title_of
from stillbit.report.history import RunHistory
from stillbit.report.markup import Markup, data_tag, join, tag
from stillbit.report.missing import missing
from stillbit.report.overview import overview
from stillbit.report.payload import curves_of, details_of

_STYLES = ("page", "charts", "media")
_SCRIPTS = ("elements", "chart", "axes", "lines", "rows", "heatmap", "histogram", "trajectories", "training", "layers", "report")


def build_page(histories: Sequence[RunHistory]) -> str:
    """Return the whole page."""
    names = distinct_names(histories)
    style, script = ("\n".join(_asset(f"{name}.{ending}") for name in parts) for parts, ending in ((_STYLES, "css"), (_SCRIPTS, "js")))
    title = _title(histories)
    return Template(_asset("report.html")).substitute(
        title=tag("title", f"stillbit report: {title}"),
        heading=tag("h1", title),
        subtitle=tag("p", ", ".join(names), class_="subtitle"),
        overview=overview(histories, names),
        recipes=join(_recipe(history, name) for history, name in zip(histories, names, strict=True)),
        data=join(_data(histories, names)),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
    )


def distinct_names(histories: Sequence[RunHistory]) -> list[str]:
    """Return each run a name of its own: its folder's, with as many parents as it takes."""
    depth = 1
    parts = [history.folder.resolve().parts for history in histories]
    names = [history.name for history in histories]
    while len(set(names)) < len(names) and depth < max(map(len, parts)):
        depth += 1
        names = ["/".join(part[-depth:]) for part in parts]
    return names


def _title(histories: Sequence[RunHistory]) -> str:
    if len(histories) == 1:
        return title_of(histories[0].recipe)
    subjects = {subject_of(history.recipe) for history in histories}
    return f"{len(histories)} runs" + (f" of {subjects.pop()}" if len(subjects) == 1 else "")


def _data(histories: Sequence[RunHistory], names: Sequence[str]) -> list[Markup]:
    """Return one tag that the page reads at once, and one per run that it reads when the run is chosen."""
    groups = group_runs(histories)
    place_of = {member: place for place, group in enumerate(groups) for member in group.members}
    runs = [_run(history, names[place], place_of[place]) for place, history in enumerate(histories)]
    data = {"runs": runs, "groups": [group.title for group in groups]}
    return [data_tag("data", data), *(data_tag(f"details-{place}", details_of(history)) for place, history in enumerate(histories))]


def _run(history: RunHistory, name: str, group: int) -> dict[str, Any]:
    return {"name": name, "group": group, "seed": seed_of(history), "missing": missing(history), **curves_of(history)}


def _recipe(history: RunHistory, name: str) -> Markup:
    return tag("details", tag("summary", f"Recipe of {name}"), tag("pre", tag("code", render(dict(history.recipe)))), class_="recipe")


def _asset(name: str) -> str:
    return (resources.files("stillbit.report") / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
