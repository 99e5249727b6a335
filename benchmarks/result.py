"""What every benchmark shares: its command line, and the header and the file of its result."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stillbit.files import write_whole

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def parser(name: str, description: str | None, output: Path | str | None = None, *, threads: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have.

    Args:
        name: The module's name in `benchmarks`.
        description: The module's docstring.
        output: Where the result goes by default; None: `NAME.json` among the results; a text, which only help shows: the benchmark decides.
        threads: How many threads torch uses by default; None: its own choice.
    """
    output = output or RESULTS / f"{name}.json"
    default, shown = (output, output.relative_to(ROOT)) if isinstance(output, Path) else (None, output)
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--output", type=Path, default=default, help=f"what to write (default: {shown})")
    choice = threads or "torch's own choice"
    made.add_argument("--threads", type=int, default=threads, help=f"threads that torch uses (default: {choice})")
    return made


def parse(options: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line and set the number of threads; `command` is the line itself."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = options.parse_args(arguments)
    given.command = shlex.join([*options.prog.split(), *arguments])
    if given.threads:
        torch.set_num_threads(given.threads)
    return given


def header(command: str, *packages: str) -> dict[str, Any]:
    """Return what every result begins with. Call it before the measurement.

    Args:
        command: What was typed.
        packages: Names of the packages whose versions matter, besides torch.
    """
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__}
        | {name: importlib.metadata.version(name) for name in packages},
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def hardware() -> dict[str, Any]:
    """Return processor, cores, threads, memory in GiB, and the GPU if there is one."""
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


def commit() -> str:
    """Return the commit of this checkout, and whether its sources were edited since."""
    head = _git("rev-parse", "--short=10", "HEAD")
    return f"{head or 'unknown'}{' and local changes' if _git('status', '--porcelain', 'src', 'benchmarks') else ''}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def earlier(path: Path) -> dict[str, Any]:
    """Return the result that a file holds, nothing without a file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a result whole or not at all."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
