"""Measure the table of speed and memory, and write a dated record.

    python -m benchmarks.speed [--short] [--only cnn_step,tracker] [--output FILE]
    python -m benchmarks.speed --show FILE

Each row runs in a process of its own. Where compilation is timed, the compiler's cache is empty. Within a row all contenders run in turn.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.result import ROOT, parse, parser, write
from benchmarks.speed import record as records
from benchmarks.speed.settings import Settings
from benchmarks.speed.table import ROWS, Row

SHORT_ROUNDS = 7
FAILED = "its process failed, see above"


def main() -> int:
    """Run the command; return its exit code."""
    options = parse_options()
    if options.show is not None:
        print(records.table(json.loads(options.show.read_text(encoding="utf-8"))))
        return 0
    rounds = options.rounds or (SHORT_ROUNDS if options.short else Settings.rounds)
    if options.row:
        settings = dataclasses.replace(Settings(), rounds=rounds, short=options.short)
        write(options.output, measure(by_name(options.row), settings))
        return 0
    arguments = ["--rounds", str(rounds), "--threads", str(options.threads), *(["--short"] if options.short else [])]
    record = records.facts(options.command, short=options.short, rounds=rounds)
    path = options.output or records.default_path(record)
    with tempfile.TemporaryDirectory() as folder:
        for row in options.only or ROWS:
            measure_into(record, row, arguments, Path(folder))
            write(path, record)  # after each row: a run that is stopped keeps what it has
    print(records.table(record))
    print(f"\nwritten to {path}")
    return 1 if FAILED in record["left_out"].values() else 0


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    options = parser("speed", __doc__, "benchmarks/results/speed_DATE.json, or speed_short_DATE.json", threads=os.cpu_count())
    options.add_argument("--short", action="store_true", help=f"only what has a target, {SHORT_ROUNDS} rounds")
    options.add_argument("--only", type=rows, metavar="ROW,ROW", help=", ".join(row.name for row in ROWS))
    options.add_argument("--rounds", type=int, help=f"timed rounds of each pair (default: {Settings.rounds})")
    options.add_argument("--show", type=Path, metavar="FILE", help="print the table of a record and measure nothing")
    options.add_argument("--row", help=argparse.SUPPRESS)  # how the command calls itself
    return parse(options)


def rows(names: str) -> tuple[Row, ...]:
    """Return the rows of a list of names."""
    return tuple(by_name(name) for name in names.split(","))


def by_name(name: str) -> Row:
    """Return the row of a name."""
    for row in ROWS:
        if row.name == name:
            return row
    raise argparse.ArgumentTypeError(f"there is no row {name!r}; allowed: {', '.join(row.name for row in ROWS)}")


def measure(row: Row, settings: Settings) -> dict[str, Any]:
    """Measure a row in this process."""
    warnings.filterwarnings("ignore")  # other libraries warn of what this machine lacks
    begin = time.perf_counter()
    findings = row.measure(settings)
    return records.row(row.title, findings, time.perf_counter() - begin)


def measure_into(record: dict[str, Any], row: Row, arguments: list[str], folder: Path) -> None:
    """Add a row to the record, or why it is left out."""
    reason = row.missing()
    if reason is None:
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        measured = in_process(row, arguments, folder)
        if measured is not None:
            record["rows"][row.name] = measured
            return
        reason = FAILED
    record["left_out"][row.name] = reason


def in_process(row: Row, arguments: list[str], folder: Path) -> dict[str, Any] | None:
    """Measure a row in a process of its own, with compiler caches and result in `folder`; return None if it fails."""
    output, caches = folder / f"{row.name}.json", folder / (row.name if row.cold else "shared")
    environment = {"TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor", "TRITON_CACHE_DIR": f"{caches}/triton"}
    command = [sys.executable, "-m", "benchmarks.speed", "--row", row.name, "--output", str(output), *arguments]
    finished = subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT, stdout=sys.stderr, check=False)
    if finished.returncode or not output.exists():
        return None
    measured: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return measured


if __name__ == "__main__":
    sys.exit(main())
