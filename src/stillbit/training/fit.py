"""Train a model: the parts of a run are made here, from what a recipe or a library user has at hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from stillbit.oscillation import Method
from stillbit.oscillation.hooks import lift_scales
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.config import TrainingConfig
from stillbit.training.data import Data
from stillbit.training.distill import Distiller
from stillbit.training.feed import Feed
from stillbit.training.heads import separate_heads
from stillbit.training.loop import Trainer
from stillbit.training.optim import check_complete
from stillbit.training.probe import Probe
from stillbit.training.rates import LearningRates, ScheduleConfig
from stillbit.training.reporter import Reporter
from stillbit.training.run_state import RunState
from stillbit.training.saving import Saver
from stillbit.training.session import Session
from stillbit.training.step import Stepper
from stillbit.training.timetable import FinalStage, Timetable
from stillbit.training.validation import Validator

MOST_STEP_LINES = 20_000  # of a record: some 6 MB


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    config: TrainingConfig,
    session: Session,
    *,
    folder: Path,
    methods: Sequence[Method] = (),
    schedules: Sequence[ScheduleConfig] = (),
    final_stage: FinalStage | None = None,
    distiller: Distiller | None = None,
    recipe: Mapping[str, Any] | None = None,
    resume: Checkpoint | None = None,
) -> RunState:
    """Train a model, in place. Write `record.jsonl`, `last.pt` and `best.pt` into the run folder."""
    check_complete(model, optimizer)
    lift_scales(model, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    if distiller is not None:
        separate_heads(model)
    timetable = Timetable(config.epochs, config.cooldown_epochs, final_stage)
    feed = Feed(data, config, session)
    steps = timetable.total * feed.steps_per_epoch
    scaler = torch.amp.GradScaler(session.device.type, enabled=config.precision == "fp16")
    network = session.wrap(model)
    if config.compile:
        network = cast(nn.Module, torch.compile(network))
    probe = Probe(model, methods, observations=config.observations, steps=steps)
    identity = {"seed": config.seed, "steps_per_epoch": feed.steps_per_epoch, "precision": config.precision}
    trainer = Trainer(
        session,
        model,
        config,
        epochs=timetable.total,
        log_every=max(config.log_every or min(50, steps // 100), -(-steps // MOST_STEP_LINES), 1),
        methods=methods,
        feed=feed,
        rates=LearningRates(optimizer, schedules, timetable, feed.steps_per_epoch),
        stepper=Stepper(network, optimizer, scaler, session, config, data.config.augment, data.num_classes, methods, distiller),
        validator=Validator(model, feed, config, session),
        probe=probe,
        saver=Saver(folder, model, optimizer, methods, probe, scaler, identity, recipe),
        report=Reporter(folder, enabled=session.is_main, tensorboard=config.tensorboard),
    )
    if resume is not None:
        trainer.state = trainer.saver.restore(resume)
    return trainer.run(resumed=resume is not None)
