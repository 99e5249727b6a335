"""Measure how long docs/start.md takes a reader: every block in order, each command in a process of its own, in an empty folder.

    python -m benchmarks.start_here                 # the blocks, with this interpreter's stillbit
    python -m benchmarks.start_here --install       # first a new environment and `pip install ".[all]"`, as the page says

The result holds wall seconds, processor seconds and the last lines printed, by section. Without `--install` it keeps the installation that
an earlier run measured. The page's table is made from it.
"""

import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import RESULTS, ROOT, earlier, header, parse, parser, write, write_text

PAGE = ROOT / "docs" / "start.md"
RESULT = RESULTS / "start_here.json"
_TIMES = re.compile(r"(<!-- times: begin -->\n).*?(<!-- times: end -->)", re.DOTALL)
_BLOCK = re.compile(r"^## (?P<section>[^\n]+)$|^```(?P<language>\w+)(?P<flags>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Measure, write the result, and renew the page's table."""
    options = parser("start_here", __doc__)
    options.add_argument("--install", action="store_true", help="measure the installation too")
    given = parse(options)
    kept = {name: found for name, found in earlier(given.output).items() if name == "install"}
    record = header(given.command, "onnxruntime") | kept
    with tempfile.TemporaryDirectory() as folder:
        python = Path(sys.executable)
        if given.install:
            python = Path(folder) / "venv" / "bin" / "python"
            record["install"] = install(python)
        work = Path(folder) / "work"
        work.mkdir()
        record["sections"] = [measure(section, commands, python, work) for section, commands in sections(python)]
    record["load_average_after"] = round(os.getloadavg()[0], 2)
    write(given.output, record)
    page = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, _TIMES.sub(lambda found: found[1] + table(record) + found[2], page))
    print(table(record))


def table(record: dict[str, Any]) -> str:
    """Return the page's table of a result."""
    versions, before, after = record["versions"], record["load_average_before"], record["load_average_after"]
    rows = [(each["section"], each["seconds"], each["processor_seconds"]) for each in record["sections"]]
    rows.append(("all of it", *(sum(row[column] for row in rows) for column in (1, 2))))
    lines = [f"| {name} | {seconds:.0f} s | {processor:.0f} s |" for name, seconds, processor in rows]
    if "install" in record:
        lines.insert(0, f"| Install, {record['install']['megabytes']:,} MB | {record['install']['seconds']:.0f} s | |")
    words = (
        f"By `{record['command']}` (`{RESULT.relative_to(ROOT)}`), each command in a process of its own:\n"
        f"{record['hardware']['cores']} cores, Python {versions['python']}, torch {versions['torch']}, "
        f"ONNX Runtime {versions['onnxruntime']}. The load average was {before:.1f} at the beginning\n"
        f"and {after:.1f} at the end: where it is above the number of cores, other jobs took part of the time.\n"
    )
    return "\n| section | on the clock | of the processor |\n|---|---|---|\n" + "\n".join(lines) + f"\n\n{words}"


def sections(python: Path) -> list[tuple[str, list[list[str]]]]:
    """Return the page's sections that run something, with their commands; all Python of a section is one process."""
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
    """Run a section's commands in turn, and return their times."""
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
    """Install stillbit into a new environment; return the seconds and the megabytes it takes."""
    environment = python.parents[1]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"{ROOT}[all]"], check=True)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    return {"seconds": round(seconds, 1), "megabytes": round(size / 1e6)}


def used() -> float:
    """Return the processor seconds of all child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
