"""When the fast path is taken: one object, which tests and benchmarks change through `tuned`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

NEVER = 1 << 62


@dataclass
class Settings:
    """Thresholds; a number that no tensor reaches (`NEVER`) switches a trick off, and every number computed stays the same.

    Attributes:
        compile: Whether kernels are compiled; false for good once a compiler has failed.
        compile_from: Elements from which the compiled form of a kernel is called; below, the call costs more than the arithmetic.
        recompute_from: Elements from which quantized values are computed again rather than saved; fewer bytes are not worth it.
        alone_from: Elements from which a weight meets a pass by itself; smaller ones are put end to end, copied by one thread.
        search_chunk: Elements per call of the range search on a CPU: 4 MiB stay in the cache, and threads meet seldom.
        search_chunk_elsewhere: The same on other devices.
    """

    compile: bool = True
    compile_from: int = 1 << 15
    recompute_from: int = 1 << 16
    alone_from: int = 1 << 15
    search_chunk: int = 1 << 20
    search_chunk_elsewhere: int = 1 << 24


settings = Settings()


@contextmanager
def tuned(**changes: Any) -> Iterator[None]:
    """Let other settings hold in a block.

    >>> with tuned(compile_from=1):
    ...     settings.compile_from
    1
    """
    before = {name: getattr(settings, name) for name in changes}
    for name, value in changes.items():
        setattr(settings, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)
