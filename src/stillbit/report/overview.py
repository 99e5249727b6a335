"""The head of the page, as HTML that needs no script: what each run is, how it ended, and how runs compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stillbit.report.comparison import Group, Spread, best, group_runs, last, seed_of, spread, title_of, total_bytes
from stillbit.report.history import RunHistory
from stillbit.report.markup import Markup, join, tag
from stillbit.report.missing import missing

_SECTIONS = {
    "training": "Training",
    "oscillation": "Oscillation",
    "weights": "Weights against their grid",
    "scales": "Scales",
    "batchnorm": "Batch norms",
    "size": "Size",
}
_STATUS = {"complete": "✓ complete", "unfinished": "… unfinished"}


@dataclass(frozen=True)
class Figure:
    """A column of the tables.

    Attributes:
        title: Its head.
        value: Takes it from a run; None if the run has none.
        show: Writes it for people.
        name: Of the figure in the record; empty if it is none of those.
    """

    title: str
    value: Callable[[RunHistory], float | None]
    show: Callable[[float], str]
    name: str = ""


def percent(value: float) -> str:
    """Write a share for people, as in `93.25 %`."""
    return f"{100 * value:.2f} %"


def size(value: float) -> str:
    """Write bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def duration(seconds: float) -> str:
    """Write a time for people, as in `1 h 05 min` or `42 s`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


FIGURES = (
    Figure("top-1", lambda run: last(run, "val_top1"), percent, "val_top1"),
    Figure("before re-estimation", lambda run: last(run, "val_top1_before_reestimation"), percent, "val_top1_before_reestimation"),
    Figure("best top-1", lambda run: best(run, "val_top1"), percent),
    Figure("validation loss", lambda run: last(run, "val_loss"), lambda value: f"{value:.4f}", "val_loss"),
    Figure("oscillating", lambda run: last(run, "oscillating"), percent, "oscillating"),
    Figure("frozen", lambda run: last(run, "frozen"), percent, "frozen"),
    Figure("size", total_bytes, size),
    Figure("time", lambda run: run.seconds, duration),
)


def overview(histories: Sequence[RunHistory], names: Sequence[str]) -> Markup:
    """Return the comparison, if there are several runs, and the facts of each run."""
    facts = [_facts(history, name, single=len(histories) == 1) for history, name in zip(histories, names, strict=True)]
    if len(histories) == 1:
        return facts[0]
    return join((_comparison(histories), _single_runs(histories, names), tag("h3", "Facts of each run"), *facts))


def _comparison(histories: Sequence[RunHistory]) -> Markup:
    groups = group_runs(histories)
    shown = [figure for figure in FIGURES if any(figure.value(history) is not None for history in histories)]
    head = [_column("recipe", row=True), _column("runs"), *(_column(figure.title) for figure in shown)]
    rows = [_group_row(group, histories, shown) for group in groups]
    note = (
        "Mean ± sample standard deviation over the runs of a recipe that differ in the seed alone; below, smallest and largest. "
        "Runs that are not complete are left out where a recipe has complete ones."
    )
    return join((_table("Comparison by recipe", head, rows), tag("p", note, class_="note")))


def _group_row(group: Group, histories: Sequence[RunHistory], figures: Sequence[Figure]) -> Markup:
    members = [histories[place] for place in group.members]
    complete = [history for history in members if history.status == "complete"]
    counted = complete or members
    seeds = f"seed {', '.join(group.seeds)}" if len(members) == 1 else f"seeds {', '.join(group.seeds)}"
    absent = len(members) - len(complete)
    runs = [tag("span", str(len(counted))), tag("small", seeds)]
    runs += [tag("small", f"{absent} not complete")] if absent else []
    cells = [_spread_cell(spread([figure.value(history) for history in counted]), figure) for figure in figures]
    return tag("tr", tag("th", group.title, scope="row"), tag("td", *runs), *cells)


def _spread_cell(found: Spread | None, figure: Figure) -> Markup:
    if found is None:
        return tag("td", "-")
    if found.deviation is None:
        return tag("td", tag("span", figure.show(found.mean)))
    mean, deviation, low, high = (figure.show(value) for value in (found.mean, found.deviation, found.low, found.high))
    if low == high:
        return tag("td", tag("span", mean), tag("small", f"in all {found.count}"))
    unit = " %" if mean.endswith(" %") else ""
    return tag("td", tag("span", f"{mean.removesuffix(unit)} ± {deviation}"), tag("small", f"{low.removesuffix(unit)} to {high}"))


def _single_runs(histories: Sequence[RunHistory], names: Sequence[str]) -> Markup:
    shown = [figure for figure in FIGURES if any(figure.value(history) is not None for history in histories)]
    head = [_column("run", row=True), _column("status"), _column("seed"), *(_column(figure.title) for figure in shown)]
    rows = []
    for history, name in zip(histories, names, strict=True):
        values = [figure.value(history) for figure in shown]
        cells = ["-" if value is None else figure.show(value) for value, figure in zip(values, shown, strict=True)]
        words = (_status(history), seed_of(history), *cells)
        rows.append(tag("tr", tag("th", name, scope="row"), *(tag("td", word) for word in words)))
    return _table("Each run", head, rows)


def _facts(history: RunHistory, name: str, *, single: bool) -> Markup:
    """Return what a run is: figures up front, then what it ran on, then what its record lacks."""
    lines = [
        ("Run", name),
        ("Folder", str(history.folder)),
        ("Recipe", title_of(history.recipe)),
        ("Seed", seed_of(history)),
        ("Status", _status(history)),
        ("Steps per epoch", f"{history.steps_per_epoch:,} of {history.images_per_step:,} images"),
        ("Time", duration(history.seconds)),
        ("Hardware", ", ".join(f"{key} {value}" for key, value in history.hardware.items()) or "not recorded"),
        ("Versions", ", ".join(f"{key} {value}" for key, value in history.versions.items()) or "not recorded"),
    ]
    listed = tag("dl", *(tag("div", tag("dt", term), tag("dd", text)) for term, text in lines), class_="facts")
    parts = [_headline(history), listed, _missing_list(history)] if single else [listed, _missing_list(history)]
    return tag("div", *parts) if single else tag("details", tag("summary", f"{name}: {title_of(history.recipe)}"), *parts)


def _headline(history: RunHistory) -> Markup:
    values = [(figure, figure.value(history)) for figure in FIGURES]
    tiles = [tag("div", tag("dt", figure.title), tag("dd", figure.show(value))) for figure, value in values if value is not None]
    return tag("dl", *tiles, class_="tiles") if tiles else Markup("")


def _missing_list(history: RunHistory) -> Markup:
    found = missing(history)
    if not found:
        return Markup("")
    rows = [tag("li", tag("b", f"{_SECTIONS[section]}: "), text) for section, text in found.items()]
    return join((tag("p", "Not in this record:"), tag("ul", *rows, class_="missing")))


def _status(history: RunHistory) -> str:
    word = _STATUS.get(history.status, f"✗ {history.status}")
    return f"{word} ({history.reason})" if history.reason else word


def _column(title: str, *, row: bool = False) -> Markup:
    return tag("th", title, scope="col", class_="name" if row else None)


def _table(caption: str, head: Sequence[Markup], rows: Sequence[Markup]) -> Markup:
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *rows))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)
