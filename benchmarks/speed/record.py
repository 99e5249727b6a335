"""The record of a run: a dated JSON file with command, hardware, versions and findings; and its table for people."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.findings import COUNT, RATIO, Figure, Findings
from benchmarks.speed.peers import PEERS

KIND = "stillbit speed"
RESULTS = Path(__file__).parents[1] / "results"
ROOT = Path(__file__).parents[2]


def facts(command: str, *, short: bool, rounds: int) -> dict[str, Any]:
    """Gives what holds for the whole run, taken before it."""
    return {
        "kind": KIND,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "short": short,
        "rounds": rounds,
        "rows": {},
        "left_out": {},
    }


def row(title: str, findings: Findings, seconds: float) -> dict[str, Any]:
    """Gives a row as JSON has it."""
    return {"title": title, "seconds": round(seconds, 1), **asdict(findings)}


def hardware() -> dict[str, Any]:
    """Gives processor, cores, threads, memory in GiB, and the GPU if there is one."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": f"{names[0] if names else platform.processor()} ({platform.machine()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Gives the versions of Python, our dependencies, and the other libraries that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "timm": importlib.metadata.version("timm")}
    return found | {peer.name: importlib.metadata.version(peer.name) for peer in PEERS if peer.installed()}


def commit() -> str:
    """Gives the commit of this checkout, with a mark if sources were edited since."""
    head = _git("rev-parse", "--short=10", "HEAD")
    return f"{head or 'unknown'}{' and local changes' if _git('status', '--porcelain', 'src', 'benchmarks') else ''}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def default_path(record: dict[str, Any]) -> Path:
    """Gives where a record goes unless told otherwise: one file a day, and another for the short form."""
    return RESULTS / f"speed_{'short_' if record['short'] else ''}{record['date'][:10]}.json"


def write(record: dict[str, Any], path: Path) -> None:
    """Writes a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def table(record: dict[str, Any]) -> str:
    """Gives the record as Markdown: each figure with its range, next to its target."""
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
