"""Files that are written whole or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stillbit.errors import ExportError, StillbitError


def write_whole(
    path: Path,
    content: bytes,
    check: Callable[[Path], None] | None = None,
    *,
    name: str | None = None,
    kind: type[StillbitError] = ExportError,
) -> None:
    """Write a file so that at every moment `path` holds what it held before or the new content, whole and on the disk.

    Args:
        path: The file; its folder exists.
        content: All of it.
        check: Reads the new file before it takes its place, and raises to keep the old one.
        name: What to call the file in an error; None: its path.
        kind: The error.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the ending stays: some readers go by it
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise kind(f"{name or path}: cannot be written ({error.strerror or error}, {len(content) / 1e6:.1f} MB)") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    # The new name itself must reach the disk. Where folders cannot be opened (Windows), there is no such call.
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
