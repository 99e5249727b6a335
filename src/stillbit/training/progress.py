"""What a person sees of a run: moving bars on a terminal, one plain line per epoch elsewhere."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_PERCENT = ("accuracy", "oscillating", "frozen")


class ProgressDisplay:
    """Shows how far a run is.

    Args:
        enabled: False shows nothing (every rank but the first).
        console: Where to; None means standard output.
    """

    def __init__(self, *, enabled: bool = True, console: Console | None = None) -> None:
        self._console = console or Console(quiet=not enabled, soft_wrap=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bars.add_task("training", total=None, figures="")

    def start(self, steps: int, taken: int) -> None:
        """Start the bars.

        Args:
            steps: Steps of the whole run.
            taken: Steps taken before.
        """
        self._bars.update(self._task, total=steps, completed=taken)
        self._bars.start()

    def stop(self) -> None:
        """Stop the bars."""
        self._bars.stop()

    def step(self, step: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Show a step.

        Args:
            step: Steps taken.
            epoch: Number of the epoch, counted from 1.
            figures: Loss, accuracy, shares and speed by name.
        """
        self._bars.update(self._task, completed=step, description=f"epoch {epoch}", figures=_line(figures))

    def epoch(self, epoch: int, epochs: int, figures: Mapping[str, float]) -> None:
        """Print the line of an epoch.

        Args:
            epoch: Epochs done.
            epochs: Epochs of the run.
            figures: By name.
        """
        self._console.print(f"epoch {epoch}/{epochs}  {_line(figures)}")

    def say(self, message: str) -> None:
        """Print a remark.

        Args:
            message: One line.
        """
        self._console.print(message)


def _line(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {_show(name, value)}" for name, value in figures.items())


def _show(name: str, value: float) -> str:
    if name.endswith(_PERCENT) or "top" in name:
        return f"{value:.2%}"
    return f"{value:.0f}" if value >= 100 else f"{value:.4g}"
