"""How long docs/start.md takes a reader: every block of the page in its order, commands as processes of their own, in an empty folder.

    python benchmarks/start_here.py                 # the blocks, by this interpreter's stillbit
    python benchmarks/start_here.py --install       # first a new environment and `pip install ".[all]"`, as the page says

Writes benchmarks/results/start_here.json: by section wall seconds, seconds of the processor, and what was printed last. What stands in the
JSON from an earlier run and was not measured again (the installation) stays. The page's table is written again from it.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "start.md"
RESULT = ROOT / "benchmarks" / "results" / "start_here.json"
_TIMES = re.compile(r"(<!-- times: begin -->\n).*?(<!-- times: end -->)", re.DOTALL)
_BLOCK = re.compile(r"^## (?P<section>[^\n]+)$|^```(?P<language>\w+)(?P<flags>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true")
    settings = parser.parse_args()
    record: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(sys.executable)
        if settings.install:
            python = Path(folder) / "venv" / "bin" / "python"
            record["install"] = install(python)
        work = Path(folder) / "work"
        work.mkdir()
        record["sections"] = [measure(section, commands, python, work) for section, commands in sections(python)]
    record["machine"] = {
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "onnxruntime")},
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_TIMES.sub(lambda found: found[1] + table(record) + found[2], page), encoding="utf-8")
    print(table(record))


def table(record: dict[str, Any]) -> str:
    """Gives the page's table of a record."""
    machine = record["machine"]
    rows = [(each["section"], each["seconds"], each["processor_seconds"]) for each in record["sections"]]
    rows.append(("all of it", *(sum(row[column] for row in rows) for column in (1, 2))))
    lines = [f"| {name} | {seconds:.0f} s | {processor:.0f} s |" for name, seconds, processor in rows]
    if "install" in record:
        lines.insert(0, f"| Install, {record['install']['megabytes']:,} MB | {record['install']['seconds']:.0f} s | |")
    versions = f"Python {machine['python']}, torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}"
    load = f"{machine['load_before']:.1f} at the beginning and {machine['load_after']:.1f} at the end"
    source = f"`python {Path(__file__).relative_to(ROOT)}` (`{RESULT.relative_to(ROOT)}`)"
    words = (
        f"By {source}, each command in a process of its own: {machine['cores']} cores,\n"
        f"{versions}. The machine's load was {load}: where it is above the number of cores,\n"
        "other jobs took part of the clock.\n"
    )
    return "\n| section | on the clock | of the processor |\n|---|---|---|\n" + "\n".join(lines) + f"\n\n{words}"


def sections(python: Path) -> list[tuple[str, list[list[str]]]]:
    """Gives the page's sections that run something, with their commands; all Python of a section is one process."""
    found: dict[str, list[list[str]]] = {}
    section = ""
    for block in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        section = block["section"] or section
        if block["language"] == "bash" and "no-run" not in block["flags"]:
            lines = [shlex.split(line, comments=True) for line in block["text"].splitlines()]
            found.setdefault(section, []).extend([str(python), "-m", *words] for words in lines if words)
        elif block["language"] == "python":
            commands = found.setdefault(section, [])
            if commands and commands[-1][1] == "-c":
                commands[-1][2] += block["text"]
            else:
                commands.append([str(python), "-c", block["text"]])
    return list(found.items())


def measure(section: str, commands: list[list[str]], python: Path, work: Path) -> dict[str, Any]:
    """Runs a section's commands in turn, and gives what they took."""
    environment = os.environ | ({"PYTHONPATH": str(ROOT / "src")} if python == Path(sys.executable) else {})
    before, start, printed = used(), time.perf_counter(), ""
    for command in commands:
        printed = subprocess.run(command, cwd=work, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout
    return {
        "section": section,
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(used() - before, 1),
        "printed": printed.splitlines()[-8:],
    }


def install(python: Path) -> dict[str, Any]:
    """Makes a new environment and installs stillbit into it; gives the seconds, and the megabytes that it takes."""
    environment = python.parents[1]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"{ROOT}[all]"], check=True)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    return {"seconds": round(seconds, 1), "megabytes": round(size / 1e6)}


def used() -> float:
    """Gives the seconds that all ended child processes have taken of the processor."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
