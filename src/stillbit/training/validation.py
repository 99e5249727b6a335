"""The end of an epoch: batch-norm statistics are estimated again (arXiv 2203.11086, section 4.1), then the network is evaluated."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from torch import nn

from stillbit.prepare import reestimate_batchnorm
from stillbit.prepare.batchnorm import Statistics, batchnorm_divergences, batchnorm_statistics, estimate_batchnorm
from stillbit.training.config import TrainingConfig
from stillbit.training.evaluate import Evaluation, evaluate
from stillbit.training.feed import Feed
from stillbit.training.seeding import POPULATION, REESTIMATION
from stillbit.training.session import Session


@final
@dataclass(frozen=True)
class Validator:
    """Evaluates the network of a run.

    Attributes:
        model: Not wrapped.
        feed: Its batches.
        config: How many batches the estimation takes, and when it is left out.
        session: Where the run takes place.
    """

    model: nn.Module
    feed: Feed
    config: TrainingConfig
    session: Session

    def evaluate(self) -> dict[str, float]:
        """Evaluate in the precision of training, and return the figures by name."""
        return {f"val_{name}": value for name, value in asdict(self._evaluate()).items()}

    def end_epoch(self, epoch: int, *, last: bool) -> tuple[dict[str, float], list[tuple[str, dict[str, Any]]]]:
        """Estimate batch-norm statistics again, and evaluate; at the end of the run, before the estimation too.

        Args:
            epoch: Epochs completed.
            last: Whether the run is at its end.

        Returns:
            Figures, and events for the record.
        """
        figures: dict[str, float] = {}
        events: list[tuple[str, dict[str, Any]]] = []
        self.session.average_batchnorm(self.model)
        if self.config.reestimate_batches:
            if last or self.config.evaluate_before_reestimation:
                before = self._evaluate()
                figures |= {"val_loss_before_reestimation": before.loss, "val_top1_before_reestimation": before.top1}
            running = batchnorm_statistics(self.model) if last and self.config.observations else None
            figures["reestimation_divergence"] = self._reestimate(epoch)
            if running is not None:
                events.append(("batchnorm", self._compare_with_population(running, epoch)))
        return figures | self.evaluate(), events

    def _evaluate(self) -> Evaluation:
        with self.session.autocast():
            return evaluate(self.model, self.feed.validation, self.feed.num_classes)

    def _reestimate(self, epoch: int) -> float:
        """Return the mean divergence of the new statistics from the old."""
        batches = self.feed.begin_estimation(REESTIMATION, epoch)
        with self.session.autocast():
            divergences = reestimate_batchnorm(self.model, self.feed.training, batches=batches)
        return sum(divergences.values()) / max(len(divergences), 1)

    def _compare_with_population(self, running: Mapping[str, Statistics], epoch: int) -> dict[str, Any]:
        """Say how far statistics were before the estimation, and are now, from those of other batches."""
        batches = self.feed.begin_estimation(POPULATION, epoch)
        with self.session.autocast():
            population = estimate_batchnorm(self.model, self.feed.training, batches=batches)
        before, after = (batchnorm_divergences(old, population) for old in (running, batchnorm_statistics(self.model)))
        return {"layers": list(before), "before": list(before.values()), "after": list(after.values())}
