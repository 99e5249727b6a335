"""How wrong a trained network's batch-norm statistics are, and what re-estimation changes.

The network was trained without re-estimation, so it holds the running averages of training. They are compared, layer by layer, with an
estimate over one epoch of training images, which replaces them. That estimate is compared with one over another epoch, augmented anew: this
shows how exact an estimate is. Accuracy is measured before and after.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.result import write
from stillbit.assembly import Trained, build_trained
from stillbit.prepare import reestimate_batchnorm
from stillbit.training.batches import Batches, validation_batches
from stillbit.training.data import Data, load_data
from stillbit.training.evaluate import evaluate
from stillbit.training.sampler import StepSampler
from stillbit.training.seeding import REESTIMATION
from stillbit.training.session import LOCAL, Session

FILE = "batchnorm.json"


class Check(NamedTuple):
    """What was found. Divergences are KL(population || statistics) in nats, the mean over a layer's channels, in the network's order.

    Attributes:
        accuracy_before: Top-1 on the validation split with the running averages.
        accuracy_after: With re-estimated statistics.
        loss_before: Mean cross-entropy there with the running averages.
        loss_after: With re-estimated statistics.
        before: Divergence of the running averages.
        after: Divergence of the re-estimated statistics.
        depthwise: Names of the layers that follow a depthwise convolution.
    """

    accuracy_before: float
    accuracy_after: float
    loss_before: float
    loss_after: float
    before: dict[str, float]
    after: dict[str, float]
    depthwise: list[str]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read what `check` wrote into a run folder, if it did."""
        path = folder / FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def check(folder: Path) -> Check:
    """Check the network in a run folder, unless an earlier call did."""
    if (done := Check.read(folder)) is not None:
        return done
    trained = Trained.read(folder)
    assert trained.recipe.training.reestimate_batches == 0, f"{folder}: its statistics are re-estimated already"
    form = torch.channels_last if trained.recipe.training.channels_last else torch.contiguous_format
    session = replace(LOCAL, memory_format=form)  # so that the accuracy is that of training, to the bit
    model, data = build_trained(trained).to(memory_format=form), load_data(trained.recipe.data)
    validation = validation_batches(data, session)
    with_averages = evaluate(model, validation, data.num_classes)
    before = _reestimate(model, data, session, trained.recipe.training.seed, epoch=0)
    with_estimates = evaluate(model, validation, data.num_classes)
    after = _reestimate(model, data, session, trained.recipe.training.seed, epoch=1)
    figures = (with_averages.top1, with_estimates.top1, with_averages.loss, with_estimates.loss)
    found = Check(*figures, before, after, depthwise_norms(model))
    write(folder / FILE, found._asdict())
    return found


def depthwise_norms(model: nn.Module) -> list[str]:
    """Return the names of the batch norms that follow a depthwise convolution, in the order of modules."""
    found, depthwise = [], False
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            depthwise = 1 < module.groups == module.in_channels
        elif isinstance(module, _BatchNorm) and depthwise:
            found.append(name)
    return found


def _reestimate(model: nn.Module, data: Data, session: Session, seed: int, epoch: int) -> dict[str, float]:
    sampler = StepSampler(len(data.train), data.config.batch_size, seed)
    sampler.begin(epoch, purpose=REESTIMATION)
    return reestimate_batchnorm(model, Batches(data.train, sampler, data, session), batches=sampler.steps_per_epoch)
