"""From run folders to a page on the disk."""

from collections.abc import Sequence
from pathlib import Path

from stillbit.errors import ReportError
from stillbit.files import write_whole
from stillbit.report.page import build_page
from stillbit.report.reading import read_run

PAGE = "report.html"


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of one run or of several.

    Args:
        folders: Run folders.
        output: The file; `report.html` in the run's folder if not given, or next to the first of several runs.

    Returns:
        The file.

    Raises:
        ReportError: If a folder holds no run or is given twice, the file's name does not end in `.html`, or it cannot be written.
    """
    _check_different(folders)
    path = output or (folders[0] if len(folders) == 1 else folders[0].resolve().parent) / PAGE
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise ReportError(f"{path}: not a name for a page; allowed: a file that ends in .html")
    write_whole(path, build_page([read_run(folder) for folder in folders]).encode("utf-8", errors="replace"), kind=ReportError)
    return path


def _check_different(folders: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ReportError(f"{folder}: given twice; allowed: each run once")
        seen.add(folder.resolve())
