"""A plain loop, timm's and Accelerate's: methods attach to the optimizer, and their state is saved next to its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from stillbit.errors import PrepareError
from stillbit.oscillation import Dampening, Freezing, Method
from stillbit.prepare import parameter_groups
from stillbit.schedules import Cosine
from tests.equality import assert_equal
from tests.integrations.digits import digits, frozen, joint, network

STEPS_AN_EPOCH, EPOCHS = 6, 4


def batches() -> DataLoader:
    return DataLoader(digits(), batch_size=16)


def freezing(model: nn.Module) -> Freezing:
    return Freezing(model, threshold=Cosine(0.15, 0.05, EPOCHS * STEPS_AN_EPOCH, begin=0.2, before=0.0), ema_momentum=0.1)


class TimmRun:
    """What timm's train script builds of its arguments: an optimizer by name, and a schedule that is told epochs and updates."""

    def __init__(self) -> None:
        self.model = network()
        groups = parameter_groups(self.model, weight_decay=0.01, scale_lr=1e-4)
        self.optimizer = create_optimizer_v2(groups, opt="sgd", lr=0.05, momentum=0.9)
        self.schedule, _ = create_scheduler_v2(self.optimizer, sched="cosine", num_epochs=EPOCHS, warmup_epochs=1, warmup_lr=1e-4)
        self.freezing = freezing(self.model).attach(self.optimizer)

    def epochs(self, chosen: range) -> None:
        for epoch in chosen:
            for index, (images, labels) in enumerate(batches()):
                self.optimizer.zero_grad()
                functional.cross_entropy(self.model(images), labels).backward()
                self.optimizer.step()
                self.schedule.step_update(epoch * STEPS_AN_EPOCH + index + 1)
            self.schedule.step(epoch + 1)

    def save(self, folder: Path) -> None:
        torch.save({name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule", "freezing")}, folder / "last.pt")

    def load(self, folder: Path) -> None:
        for name, state in torch.load(folder / "last.pt").items():
            getattr(self, name).load_state_dict(state)


class AccelerateRun:
    """Two batches a step, by two optimizers in one, and everything saved by Accelerate."""

    def __init__(self) -> None:
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = network()
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, joint(model), batches())
        self.freezing = freezing(self.model).attach(self.optimizer)
        self.accelerator.register_for_checkpointing(self.freezing)

    def epochs(self, chosen: range) -> None:
        for _ in chosen:
            for images, labels in self.loader:
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward(functional.cross_entropy(self.model(images), labels))
                    self.optimizer.step()
                    self.optimizer.zero_grad()

    def save(self, folder: Path) -> None:
        self.accelerator.save_state(str(folder))

    def load(self, folder: Path) -> None:
        self.accelerator.load_state(str(folder))


def state(run: Any) -> dict[str, Any]:
    return {name: dict(getattr(run, name).state_dict()) for name in ("model", "optimizer", "freezing")}


@pytest.mark.parametrize("make", [TimmRun, AccelerateRun], ids=["timm", "accelerate"])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Bit for bit: weights, scales, pins, statistics, optimizer, histories."""
    whole, first, second = make(), make(), make()
    whole.epochs(range(EPOCHS))
    first.epochs(range(2))
    first.save(tmp_path)
    second.load(tmp_path)
    second.epochs(range(2, EPOCHS))
    assert_equal(state(whole), state(second))
    assert frozen(state(whole)["model"]) > 0
    assert not torch.equal(first.model[0].weight, whole.model[0].weight)


def test_a_step_of_accelerate_is_one_step() -> None:
    run = AccelerateRun()
    run.epochs(range(1))
    assert run.freezing.step == STEPS_AN_EPOCH // 2


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "adafactor", "muon"])
def test_timms_own_optimizers_carry_methods(name: str) -> None:
    model = network()
    optimizer = create_optimizer_v2(parameter_groups(model, weight_decay=0.01, scale_lr=1e-4), opt=name, lr=1e-3)
    methods: list[Method] = [freezing(model).attach(optimizer), Dampening(model, weight=0.1).attach(optimizer)]
    for images, labels in batches():
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert [method.step for method in methods] == [6, 6]


def test_timms_lookahead_is_refused() -> None:
    model = network()
    optimizer = create_optimizer_v2(parameter_groups(model, weight_decay=0.0, scale_lr=1e-4), opt="lookahead_sgd", lr=1e-3)
    with pytest.raises(PrepareError, match="Lookahead does not run torch's step hooks"):
        freezing(model).attach(optimizer)
