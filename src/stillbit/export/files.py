"""Files that are written whole or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stillbit.errors import ExportError


def write_whole(path: Path, content: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write a file so that at every moment `path` holds what it held before or the new content, whole."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the ending stays: some readers go by it
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror}, {len(content) / 1e6:.1f} MB)") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
