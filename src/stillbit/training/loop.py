"""The one training loop.

As published (arXiv 2203.11086): each epoch ends with the re-estimation of batch-norm statistics and an evaluation; the
re-estimated statistics replace the running averages, and training goes on from them. Deviates from the reference in: the
checkpoint is written after the evaluation and holds everything, so that a resumed run is the same run, bit by bit; it
can be written at any step; an epoch leaves out the images that fill no whole step.

Oscillation methods attach to the optimizer, so here they only appear to be saved and to report.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from stillbit.errors import DivergedError, Interrupted
from stillbit.oscillation import Method
from stillbit.prepare import reestimate_batchnorm
from stillbit.prepare.batchnorm import Statistics, batchnorm_divergences, batchnorm_statistics, estimate_batchnorm
from stillbit.training.batches import Batches, validation_batches
from stillbit.training.config import TrainingConfig
from stillbit.training.data import Data
from stillbit.training.diagnose import check_collapse, check_parameters, first_nonfinite
from stillbit.training.distill import Distiller
from stillbit.training.evaluate import Evaluation, evaluate
from stillbit.training.heads import separate_heads
from stillbit.training.objective import Objective
from stillbit.training.observer import Observer
from stillbit.training.optim import check_complete
from stillbit.training.position import Position
from stillbit.training.processes import (
    autocast,
    average_batchnorm,
    memory_format,
    place,
    start_processes,
    training_dtype,
    wrap,
)
from stillbit.training.rates import LearningRates, ScheduleConfig
from stillbit.training.reporter import Reporter
from stillbit.training.sampler import StepSampler
from stillbit.training.seeding import POPULATION, REESTIMATION
from stillbit.training.signals import StopSignals
from stillbit.training.snapshot import Snapshot
from stillbit.training.step import StepFigures, Stepper
from stillbit.training.timetable import FinalStage, Timetable

LAST = "last.pt"
BEST = "best.pt"
MOST_STEP_LINES = 20_000  # of a record: some 6 MB


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    config: TrainingConfig,
    *,
    directory: Path,
    methods: Sequence[Method] = (),
    schedules: Sequence[ScheduleConfig] = (),
    final_stage: FinalStage | None = None,
    distiller: Distiller | None = None,
    recipe: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Position:
    """Train a model, in place. Writes `record.jsonl`, `last.pt` and `best.pt` into the run folder.

    Args:
        model: Any classifier, prepared and calibrated or float, where `place` has put it.
        optimizer: Over all its trainable parameters.
        data: Both splits.
        config: How to train.
        directory: The run folder; made if it is missing.
        methods: Already attached to the optimizer; saved, restored and reported here.
        schedules: Of the learning rate, one a parameter group; empty means constant rates.
        final_stage: Epochs after those of `config`, at a rate of their own; None: no more.
        distiller: Teaches the model; None: labels alone do.
        recipe: What the run was made from, as plain data; goes into the record and the checkpoints.
        resume: Continue from the folder's `last.pt`.

    Returns:
        Where the run ended, with the figures of each epoch.

    Raises:
        RecipeError: If the optimizer misses a parameter, there is no epoch to train, or the device cannot do the precision.
        DataError: If a batch cannot be used.
        CheckpointError: If a checkpoint cannot be read or written, or is of another run.
        DivergedError: If a loss or a parameter is not finite, or the accuracy has collapsed.
        Interrupted: After SIGTERM or SIGINT, when the state has been saved.
    """
    check_complete(model, optimizer)
    directory.mkdir(parents=True, exist_ok=True)
    timetable = Timetable(config.epochs, config.cooldown_epochs, final_stage)
    run = _Run(model, optimizer, data, config, timetable, directory, methods, schedules, distiller, recipe)
    if resume:
        run.position = run.snapshot.load(directory / LAST)
    with run.signals, run.report, _deterministic_kernels(config.deterministic):
        facts = {"recipe": recipe, "images_per_step": run.images_per_step, **run.snapshot.run}
        run.report.start(run.position.step, timetable.total * run.steps_per_epoch, resumed=resume, facts=facts)
        if not resume:
            run.observe(run.observer.begin())
        run.train()
    return run.position


class _Run:
    """The parts of a run, and the loop over them."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: Data,
        config: TrainingConfig,
        timetable: Timetable,
        directory: Path,
        methods: Sequence[Method],
        schedules: Sequence[ScheduleConfig],
        distiller: Distiller | None,
        recipe: Mapping[str, Any] | None,
    ) -> None:
        self.model, self.data, self.config, self.directory, self.methods = model, data, config, directory, methods
        self.epochs, self.distiller = timetable.total, distiller
        if distiller is not None:
            separate_heads(model)
        device = place(model, config)
        self.processes = start_processes(config)
        rank, world = self.processes.process_index, self.processes.num_processes
        batch_size, accumulation = data.config.batch_size, config.accumulation
        repeats = data.config.augment.repeats
        self.sampler = StepSampler(len(data.train), batch_size, config.seed, accumulation, rank, world, repeats)
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.images_per_step = batch_size * accumulation * world
        form = (device, training_dtype(config), memory_format(config))
        self.train_batches = Batches(data.train, self.sampler, data, *form)
        self.val_batches = validation_batches(data, *form, rank, world)
        self.rates = LearningRates(optimizer, schedules, timetable, self.steps_per_epoch)
        scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        network = wrap(model, self.processes)
        if config.compile:
            network = cast(nn.Module, torch.compile(network))
        objective = Objective(data.num_classes, config.label_smoothing, distiller)
        self.stepper = Stepper(network, optimizer, scaler, self.processes, config, data.config.augment, objective, methods)
        same = {"seed": config.seed, "steps_per_epoch": self.steps_per_epoch, "precision": config.precision}
        steps = self.epochs * self.steps_per_epoch
        self.log_every = max(config.log_every, -(-steps // MOST_STEP_LINES))
        self.observer = Observer(model, methods, observations=config.observations, steps=steps)
        self.snapshot = Snapshot(model, optimizer, methods, self.observer, scaler, same, recipe)
        self.position = Position()
        self.signals = StopSignals()
        self.report = Reporter(directory, enabled=self.processes.is_main_process, tensorboard=config.tensorboard)

    def train(self) -> None:
        """Take all steps that are left."""
        if not self.position.history and self.position.step == 0:
            self.begin()
        for epoch in range(self.position.epoch + 1, self.epochs + 1):
            self.train_epoch(epoch)
            figures = self.position.close_epoch(self.steps_per_epoch)
            last = epoch == self.epochs
            if last or epoch % self.config.evaluate_every == 0:
                figures |= self.evaluate(last=last)
            self.end_epoch(figures)
        self.report.finish(self.position.history[-1])

    def begin(self) -> None:
        """Evaluate and save the model as it comes: a run that fails early leaves a checkpoint, and a full disk shows now."""
        if self.config.evaluate_first:
            self.position.history.append({"epoch": 0, **_figures(self.validate())})
            self.report.epoch(self.epochs, self.position.history[-1])
        self.save(LAST)

    def train_epoch(self, epoch: int) -> None:
        """Take the steps of an epoch, or those that a checkpoint within it left."""
        self.model.train()
        end = epoch * self.steps_per_epoch
        batches = self.micro_batches(self.position.step + 1)
        for step in range(self.position.step + 1, end + 1):
            self.rates.set(step)
            figures = self.stepper.accumulate(step, batches, told_to_stop=self.signals.received is not None)
            if not math.isfinite(figures.loss):
                raise self.diverged(step)
            self.stepper.update()
            self.position.count_step(figures.loss, figures.correct, figures.images)
            self.report_step(step, epoch, figures)
            self.observe(self.observer.after_step(step))
            self.stop_if_told(figures.told_to_stop)
            if self.config.checkpoint_every and step % self.config.checkpoint_every == 0 and step < end:
                self.save(LAST)

    def evaluate(self, *, last: bool) -> dict[str, float]:
        """Re-estimate batch-norm statistics, and evaluate; at the end of the run, before re-estimation too."""
        figures: dict[str, float] = {}
        average_batchnorm(self.model, self.processes)
        if self.config.reestimate_batches:
            if last or self.config.evaluate_before_reestimation:
                before = self.validate()
                figures |= {"val_loss_before_reestimation": before.loss, "val_top1_before_reestimation": before.top1}
            running = batchnorm_statistics(self.model) if last and self.config.observations else None
            figures["reestimation_divergence"] = self.reestimate()
            if running is not None:
                self.check_batchnorm(running)
        return figures | _figures(self.validate())

    def end_epoch(self, figures: dict[str, float]) -> None:
        """Report and save an epoch."""
        for method in self.methods:
            figures |= method.metrics()
        self.position.history.append(figures)
        self.report.epoch(self.epochs, figures)
        if figures.get("val_top1", -1.0) > self.position.best_top1:
            self.position.best_top1 = figures["val_top1"]
            self.save(BEST)
        self.save(LAST)
        check_collapse([past["val_top1"] for past in self.position.history if "val_top1" in past], self.data.num_classes)

    def validate(self) -> Evaluation:
        """Evaluate on the validation split, in the precision of training."""
        with autocast(self.config, self.processes.device):
            return evaluate(self.model, self.val_batches, self.data.num_classes)

    def reestimate(self) -> float:
        """Re-estimate batch-norm statistics from training batches of their own; return their mean divergence."""
        batches = self.begin_estimation(REESTIMATION)
        with autocast(self.config, self.processes.device):
            divergences = reestimate_batchnorm(self.model, self.train_batches, batches=batches)
        return sum(divergences.values()) / max(len(divergences), 1)

    def check_batchnorm(self, running: Mapping[str, Statistics]) -> None:
        """Write down how far from the population, which other batches stand for, statistics were before re-estimation and are now."""
        batches = self.begin_estimation(POPULATION)
        with autocast(self.config, self.processes.device):
            population = estimate_batchnorm(self.model, self.train_batches, batches=batches)
        before, after = (batchnorm_divergences(old, population) for old in (running, batchnorm_statistics(self.model)))
        fields = {"layers": list(before), "before": list(before.values()), "after": list(after.values())}
        self.report.observed("batchnorm", fields)

    def begin_estimation(self, purpose: int) -> int:
        """Let the training batches be those of an estimation of batch-norm statistics; return how many this rank takes."""
        batches: int = -(-self.config.reestimate_batches // self.processes.num_processes)
        num_steps = -(-batches // self.config.accumulation)
        self.sampler.begin(self.position.epoch, num_steps=num_steps, purpose=purpose)
        return batches

    def micro_batches(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give this rank's micro-batches from a step (counted from 1) to the end of its epoch."""
        epoch, first_step = divmod(step - 1, self.steps_per_epoch)
        self.sampler.begin(epoch, first_step)
        return iter(self.train_batches)

    def report_step(self, step: int, epoch: int, figures: StepFigures) -> None:
        """Show a step; every so many steps, write it down."""
        shown = {"loss": figures.loss, "accuracy": figures.correct / figures.images}
        self.report.step(step, epoch, shown, figures.images)
        if step % self.log_every == 0:
            rates = {f"learning_rate_{group}": rate for group, rate in enumerate(self.rates.at(step))}
            shares = {name: value for method in self.methods for name, value in method.metrics().items()}
            self.report.log(epoch, shown | rates, shares)

    def observe(self, events: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Write down what the observer sees, on the first rank, to which the events are made only there."""
        if self.processes.is_main_process:
            for event, fields in events:
                self.report.observed(event, fields)

    def save(self, name: str) -> None:
        """Write a checkpoint of the whole run; no rank goes on before it is on the disk."""
        check_parameters(self.model, self.position.step)
        average_batchnorm(self.model, self.processes)
        self.count_skipped()
        if self.processes.is_main_process:
            self.snapshot.save(self.directory / name, self.position)
            self.report.checkpoint(self.directory / name)
        self.processes.wait_for_everyone()

    def count_skipped(self) -> None:
        """Collect from all ranks which images could not be read, and name each once."""
        skipped: Counter[str] = Counter()
        for batches in (self.train_batches, self.val_batches):
            for name, times in gather_object(list(batches.skipped.items())):
                skipped[name] += times
            batches.skipped.clear()
        for name in self.position.count_skipped(skipped):
            self.report.skipped(name)

    def stop_if_told(self, any_rank: bool) -> None:
        """Save and leave if a signal asked for it.

        Args:
            any_rank: What the ranks told each other in the step. Of several ranks none may leave alone, so there a signal that came
                later counts in the next step.
        """
        alone = self.processes.num_processes == 1
        if not any_rank and not (alone and self.signals.received):
            return
        self.save(LAST)
        raise Interrupted(
            f"stopped by {self.signals.received or 'a signal to another process'} after step {self.position.step}; "
            f"saved in {self.directory / LAST}, resume to go on"
        )

    def diverged(self, step: int) -> DivergedError:
        """Decode the step's batches again, and find the layer that is to blame."""
        kept = f"the last checkpoint is kept in {self.directory}"
        for number, (images, labels) in zip(range(self.config.accumulation), self.micro_batches(step), strict=False):
            batch = self.stepper.mix_and_seed(step, number, images, labels)
            with autocast(self.config, self.processes.device):
                found = first_nonfinite(self.model, batch.images)
            if found is not None:
                return DivergedError(f"step {step}: the loss is not finite, first at {found}; {kept}")
            if self.distiller is not None and not self.distiller.teach(batch.images).isfinite().all():
                return DivergedError(f"step {step}: the loss is not finite, because the teacher's logits are not; {kept}")
        return DivergedError(f"step {step}: the loss is not finite, though every layer of this process is; {kept}")


def _figures(evaluation: Evaluation) -> dict[str, float]:
    return {f"val_{name}": value for name, value in asdict(evaluation).items()}


@contextmanager
def _deterministic_kernels(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
