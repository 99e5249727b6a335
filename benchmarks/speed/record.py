"""The record of a run, and its table in Markdown."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.result import RESULTS, header
from benchmarks.speed.findings import COUNT, RATIO, Figure, Findings
from benchmarks.speed.peers import PEERS

KIND = "stillbit speed"


def facts(command: str, *, short: bool, rounds: int) -> dict[str, Any]:
    """Return a record without rows. Call it before the run."""
    peers = (peer.name for peer in PEERS if peer.installed())
    return {"kind": KIND, **header(command, "timm", *peers), "short": short, "rounds": rounds, "rows": {}, "left_out": {}}


def row(title: str, findings: Findings, seconds: float) -> dict[str, Any]:
    """Return a row of the record."""
    return {"title": title, "seconds": round(seconds, 1), **asdict(findings)}


def default_path(record: dict[str, Any]) -> Path:
    """Return where a record goes by default: one file per day, and another for the short form."""
    return RESULTS / f"speed_{'short_' if record['short'] else ''}{record['date'][:10]}.json"


def table(record: dict[str, Any]) -> str:
    """Return the record as Markdown: each figure with its range and target."""
    of = record["hardware"]
    lines = [
        f"{of['processor']}, {of['cores']} cores, {of['threads']} threads; {of['gpu'] or 'no GPU'}; "
        f"load {record['load_average_before']} before.",
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()) + f"; commit {record['commit']}.",
        f"`{record['command']}`, {record['date']}, {record['rounds']} rounds: median (smallest to largest).",
        "",
        "| what | measured | target | |",
        "|---|---|---|---|",
    ]
    for name, each in record["rows"].items():
        lines.append(f"| **{name}**: {each['title']} | | | |")
        lines += [_line(Figure(**figure)) for figure in each["figures"]]
    lines += ["", *(f"- {name}: {note}" for name, each in record["rows"].items() for note in each["notes"])]
    lines += [f"- {name}: left out, {reason}" for name, reason in record["left_out"].items()]
    return "\n".join(lines)


def _line(figure: Figure) -> str:
    reached = {None: "", True: "reached", False: "missed"}[figure.reached()]
    bound = "at least" if figure.higher_is_better else "at most"
    target = "" if figure.target is None else f"{bound} {figure.target:g}{'' if figure.unit == RATIO else ' '}{figure.unit}"
    spread = f" ({_number(figure.low, '')} to {_number(figure.high, '')})" if figure.low != figure.high else ""
    return f"| {figure.name} | {_number(figure.median, figure.unit)}{spread} | {target} | {reached} |"


def _number(value: float, unit: str) -> str:
    digits = f"{value:.0f}" if unit == COUNT or value == int(value) else f"{value:.3f}" if value < 10 else f"{value:.1f}"
    return f"{digits}{'' if unit == RATIO else ' '}{unit}".rstrip()
