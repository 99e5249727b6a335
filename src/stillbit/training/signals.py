"""SIGTERM and SIGINT become a request that the loop answers after the step in hand."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While entered, notes the first SIGTERM or SIGINT instead of dying of it; a second one acts as it always does.

    Outside of the main thread, where Python allows no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Put the previous handlers back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python gives both
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
