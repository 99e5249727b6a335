"""Sends each event of a run to its record, to TensorBoard and to the display; on the first rank only."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stillbit.training.progress import ProgressDisplay
from stillbit.training.record import RunRecord, surroundings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Figures of an epoch that its line on the terminal leaves out.
_RECORD_ONLY = ("epoch", "val_count", "val_top5", "val_loss_before_reestimation", "reestimation_divergence")


class Reporter:
    """Where a run's figures go: `record.jsonl` and `tensorboard/` in its folder, and the terminal.

    Args:
        directory: The run folder.
        enabled: False reports nothing.
        tensorboard: Write TensorBoard's files.
    """

    def __init__(self, directory: Path, *, enabled: bool, tensorboard: bool) -> None:
        self._directory = directory
        self._enabled = enabled
        self._tensorboard = tensorboard
        self._record: RunRecord | None = None
        self._board: SummaryWriter | None = None
        self._display = ProgressDisplay(enabled=enabled)
        self._stack = ExitStack()
        self._step = 0
        self._since = time.monotonic()
        self._images = 0.0
        self._shares: dict[str, float] = {}

    def __enter__(self) -> "Reporter":
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close everything; an error leaves its line in the record."""
        if kind is not None:
            self._write("end", status=kind.__name__, reason=" ".join(str(error).split()))
        self._stack.close()

    def start(self, step: int, steps: int, *, resumed: bool, facts: Mapping[str, Any]) -> None:
        """Open everything, and report versions, hardware, and what the run is.

        Args:
            step: Steps taken before.
            steps: Steps of the whole run.
            resumed: Whether a checkpoint was loaded; else an earlier record in the folder is replaced.
            facts: The recipe and whatever else JSON can hold.
        """
        self._step = step
        if self._enabled:
            record = RunRecord(self._directory / "record.jsonl", step if resumed else None)
            self._record = self._stack.enter_context(record)
        if self._enabled and self._tensorboard:
            self._board = _open_board(self._directory / "tensorboard", step)
            self._stack.callback(self._board.close)
        self._write("resume" if resumed else "start", **surroundings(), **facts)
        self._display.start(steps, step)
        self._stack.callback(self._display.stop)
        self._since = time.monotonic()

    def step(self, step: int, epoch: int, figures: Mapping[str, float], images: float) -> None:
        """Show a step; nothing is written.

        Args:
            step: Steps taken.
            epoch: Number of the epoch, counted from 1.
            figures: Loss and accuracy.
            images: Number of images in the step, over all ranks.
        """
        self._step = step
        self._images += images
        shown = {**figures, **self._shares, "images/s": self._speed()}
        self._display.step(step, epoch, shown)

    def log(self, epoch: int, figures: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """Write the line of the step just shown.

        Args:
            epoch: Number of the epoch, counted from 1.
            figures: Loss, accuracy, learning rates.
            shares: What the methods measure; stays on display until the next log.
        """
        self._shares = dict(shares)
        fields = {**figures, **shares, "images_per_second": self._speed()}
        self._write("step", epoch=epoch, **fields)
        self._plot("train", fields)
        self._since, self._images = time.monotonic(), 0.0

    def epoch(self, epochs: int, figures: Mapping[str, float]) -> None:
        """Report the end of an epoch.

        Args:
            epochs: Epochs of the whole run.
            figures: `epoch` (completed ones), and training and validation figures.
        """
        self._write("epoch", **figures)
        self._plot("epoch", figures)
        shown = {name: value for name, value in figures.items() if name not in _RECORD_ONLY}
        self._display.epoch(int(figures["epoch"]), epochs, shown)
        self._since, self._images = time.monotonic(), 0.0  # evaluation is no part of the training speed

    def observed(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write down what was measured of quantizers or batch norms.

        Args:
            event: Its kind.
            fields: What JSON can hold.
        """
        self._write(event, **fields)

    def skipped(self, name: str) -> None:
        """Report an image that cannot be read; called once for each.

        Args:
            name: Its file.
        """
        self._write("skipped", name=name)
        self._display.say(f"skipped, not readable: {name}")

    def checkpoint(self, path: Path) -> None:
        """Report a checkpoint.

        Args:
            path: The file.
        """
        self._write("checkpoint", path=path.name)

    def finish(self, figures: Mapping[str, float]) -> None:
        """Report the end of a run that took all its steps.

        Args:
            figures: Final ones.
        """
        self._write("end", status="complete", **figures)

    def _write(self, event: str, **fields: Any) -> None:
        if self._record is not None:
            self._record.write(event, self._step, **fields)

    def _plot(self, group: str, figures: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"{group}/{name}", value, self._step)

    def _speed(self) -> float:
        return round(self._images / max(time.monotonic() - self._since, 1e-9), 1)


def _open_board(folder: Path, step: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
