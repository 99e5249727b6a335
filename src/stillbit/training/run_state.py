"""How far a run has come: everything about it that is neither model, optimizer nor method."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class RunState:
    """Progress and figures of a run; part of its checkpoint.

    Attributes:
        step: Optimizer steps taken.
        epoch: Epochs completed, evaluation included.
        history: Figures of each completed epoch, and of the evaluation before the first.
        best_top1: Best validation accuracy so far; -1 before any.
        loss_sum: Sum of the losses of the running epoch's steps.
        correct: Training images of the running epoch that the model got right.
        images: Training images of the running epoch.
        skipped: How often each unreadable image was left out.
    """

    step: int = 0
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_top1: float = -1.0
    loss_sum: float = 0.0
    correct: float = 0.0
    images: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)

    def count_step(self, loss: float, correct: float, images: float) -> None:
        """Count a step by its mean loss, and its images over all ranks."""
        self.step += 1
        self.loss_sum += loss
        self.correct += correct
        self.images += images

    def close_epoch(self, steps: int) -> dict[str, float]:
        """End the running epoch of `steps` steps, begin the next, and return the training figures."""
        figures = {
            "epoch": self.epoch + 1,
            "train_loss": self.loss_sum / steps,
            "train_accuracy": self.correct / max(self.images, 1.0),
        }
        self.epoch += 1
        self.loss_sum = self.correct = self.images = 0.0
        return figures

    def count_skipped(self, names: Counter[str]) -> list[str]:
        """Count unreadable images, and return those that were not known before."""
        new = sorted(set(names) - set(self.skipped))
        for name, times in names.items():
            self.skipped[name] = self.skipped.get(name, 0) + times
        return new

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts."""
        return asdict(self)
