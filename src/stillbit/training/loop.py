"""The one training loop.

As published (arXiv 2203.11086): each epoch ends with the re-estimation of batch-norm statistics and an evaluation; the
re-estimated statistics replace the running averages, and training goes on from them. Deviates from the reference in: the
checkpoint is written after the evaluation and holds everything, so that a resumed run is the same run, bit for bit; it
can be written at any step; an epoch leaves out the images that fill no whole step.

Oscillation methods attach to the optimizer, so here they only report.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn

from stillbit.errors import DivergedError, Interrupted
from stillbit.oscillation import Method
from stillbit.training.config import TrainingConfig
from stillbit.training.diagnose import check_collapse, check_parameters, first_nonfinite
from stillbit.training.feed import Feed
from stillbit.training.probe import Probe
from stillbit.training.rates import LearningRates
from stillbit.training.reporter import Reporter
from stillbit.training.run_state import RunState
from stillbit.training.saving import BEST, LAST, Saver
from stillbit.training.session import Session
from stillbit.training.signals import StopSignals
from stillbit.training.step import StepFigures, Stepper
from stillbit.training.validation import Validator


@final
@dataclass
class Trainer:
    """Takes a model through its run. The parts do the work; here stands in which order.

    Attributes:
        session: Where the run takes place.
        model: Not wrapped.
        config: How to train.
        epochs: Of the whole run.
        log_every: Steps between two lines of the record.
        methods: Attached to the optimizer.
        feed: Yields batches.
        rates: Sets learning rates.
        stepper: Takes steps.
        validator: Ends epochs.
        probe: Measures quantizers for the record.
        saver: Writes checkpoints.
        report: Shows and writes figures.
        state: How far the run has come.
    """

    session: Session
    model: nn.Module
    config: TrainingConfig
    epochs: int
    log_every: int
    methods: Sequence[Method]
    feed: Feed
    rates: LearningRates
    stepper: Stepper
    validator: Validator
    probe: Probe
    saver: Saver
    report: Reporter
    state: RunState = field(default_factory=RunState)
    signals: StopSignals = field(default_factory=StopSignals)

    def run(self, *, resumed: bool) -> RunState:
        """Take all steps that are left, from the state of the run."""
        with self.signals, self.report, _deterministic_kernels(self.config.deterministic):
            facts = {"recipe": self.saver.recipe, "images_per_step": self.feed.images_per_step, **self.saver.identity}
            self.report.start(self.state.step, self.epochs * self.feed.steps_per_epoch, resumed=resumed, facts=facts)
            if not resumed:
                self._write(self.probe.begin())
            if not self.state.history and self.state.step == 0:
                self._evaluate_first()
            for epoch in range(self.state.epoch + 1, self.epochs + 1):
                self._train_epoch(epoch)
                self._end_epoch(last=epoch == self.epochs)
            self.report.finish(self.state.history[-1])
        return self.state

    def _evaluate_first(self) -> None:
        """Evaluate and save the model before its first step: a run that fails early leaves a checkpoint, and a full disk shows now."""
        if self.config.evaluate_first:
            self.state.history.append({"epoch": 0, **self.validator.evaluate()})
            self.report.epoch(self.epochs, self.state.history[-1])
        self._save(LAST)

    def _train_epoch(self, epoch: int) -> None:
        """Take the steps of an epoch that are left."""
        self.model.train()
        end = epoch * self.feed.steps_per_epoch
        batches = self.feed.from_step(self.state.step + 1)
        for step in range(self.state.step + 1, end + 1):
            self.rates.set(step)
            figures = self.stepper.accumulate(step, batches, told_to_stop=self.signals.received is not None)
            if not math.isfinite(figures.loss):
                raise self._diverged(step)
            self.stepper.update()
            self.state.count_step(figures.loss, figures.correct, figures.images)
            self._report_step(step, epoch, figures)
            self._write(self.probe.after_step(step))
            self._stop_if_told(figures.told_to_stop)
            if self.config.checkpoint_every and step % self.config.checkpoint_every == 0 and step < end:
                self._save(LAST)

    def _end_epoch(self, *, last: bool) -> None:
        """Evaluate, report and save."""
        figures = self.state.close_epoch(self.feed.steps_per_epoch)
        if last or self.state.epoch % self.config.evaluate_every == 0:
            found, events = self.validator.end_epoch(self.state.epoch, last=last)
            figures |= found
            self._write(events)
        for method in self.methods:
            figures |= method.metrics()
        self.state.history.append(figures)
        self.report.epoch(self.epochs, figures)
        if figures.get("val_top1", -1.0) > self.state.best_top1:
            self.state.best_top1 = figures["val_top1"]
            self._save(BEST)
        self._save(LAST)
        check_collapse([past["val_top1"] for past in self.state.history if "val_top1" in past], self.feed.num_classes)

    def _report_step(self, step: int, epoch: int, figures: StepFigures) -> None:
        """Show a step; every so many steps, write it down."""
        shown = {"loss": figures.loss, "accuracy": figures.correct / figures.images}
        self.report.step(step, epoch, shown, figures.images)
        if step % self.log_every == 0:
            rates = {f"learning_rate_{group}": rate for group, rate in enumerate(self.rates.at(step))}
            shares = {name: value for method in self.methods for name, value in method.metrics().items()}
            self.report.log(epoch, shown | rates, shares)

    def _write(self, events: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Write events into the record, on the first rank; elsewhere they are not even made."""
        if self.session.is_main:
            for event, fields in events:
                self.report.observed(event, fields)

    def _save(self, name: str) -> None:
        """Write a checkpoint of the whole run; no rank goes on before it is on the disk."""
        check_parameters(self.model, self.state.step)
        self.session.average_batchnorm(self.model)
        for image in self.state.count_skipped(self.feed.take_skipped()):
            self.report.skipped(image)
        if self.session.is_main:
            self.saver.save(name, self.state)
            self.report.checkpoint(self.saver.folder / name)
        self.session.wait()

    def _stop_if_told(self, any_rank: bool) -> None:
        """Save and leave if a signal asked for it: of several ranks none may leave alone, so all go by what they told each other."""
        if not any_rank and not (self.session.world == 1 and self.signals.received):
            return
        self._save(LAST)
        raise Interrupted(
            f"stopped by {self.signals.received or 'a signal to another process'} after step {self.state.step}; "
            f"saved in {self.saver.folder / LAST}, resume to go on"
        )

    def _diverged(self, step: int) -> DivergedError:
        """Decode the step's batches again, and find the layer that is to blame."""
        kept = f"the last checkpoint is kept in {self.saver.folder}"
        teacher = self.stepper.distiller
        for number, (images, labels) in zip(range(self.config.accumulation), self.feed.from_step(step), strict=False):
            batch = self.stepper.mix_and_seed(step, number, images, labels)
            with self.session.autocast():
                found = first_nonfinite(self.model, batch.images)
            if found is not None:
                return DivergedError(f"step {step}: the loss is not finite, first at {found}; {kept}")
            if teacher is not None and not teacher.teach(batch.images).isfinite().all():
                return DivergedError(f"step {step}: the loss is not finite, because the teacher's logits are not; {kept}")
        return DivergedError(f"step {step}: the loss is not finite, though every layer of this process is; {kept}")


@contextmanager
def _deterministic_kernels(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
