"""The callback in Lightning's own trainer: the same run as a plain loop, resumed to the bit."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from stillbit.errors import CheckpointError, PrepareError
from stillbit.integrations.lightning import StillbitCallback
from stillbit.oscillation import Dampening, Freezing, Tracking
from tests.equality import assert_equal
from tests.integrations.digits import FREEZING, digits, frozen, joint, network

EPOCHS = 4
METHODS = (FREEZING, partial(Dampening, final_weight=0.01))

pytestmark = [
    # What Lightning 2.6 calls of torch 2.15, and what it says of a small run.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval:UserWarning"),
]


class Module(pl.LightningModule):
    """The small network with everything that Lightning asks for."""

    def __init__(self, *, manual: bool = False, optimizers: int = 1) -> None:
        super().__init__()
        self.network = network()
        self.automatic_optimization = not manual
        self.num_optimizers = optimizers

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any) -> Tensor:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: Any) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        if self.num_optimizers == 2:
            return [torch.optim.SGD(self.parameters(), lr=0.01), torch.optim.SGD(self.parameters(), lr=0.01)]
        return joint(self.network)


class StopAfter(pl.Callback):
    """Ends training after some epochs, as a lost machine does, but for a checkpoint."""

    def __init__(self, epochs: int, path: Path) -> None:
        self.epochs, self.path = epochs, path

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == self.epochs:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def trainer(tmp_path: Path, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    fixed = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(default_root_dir=tmp_path, max_epochs=EPOCHS, callbacks=list(callbacks), **{**fixed, **settings})


def batches() -> DataLoader:
    return DataLoader(digits(), batch_size=16)


def fitted(tmp_path: Path, *callbacks: pl.Callback, resume: Path | None = None, manual: bool = False, **settings: Any) -> Module:
    module = Module(manual=manual)
    trainer(tmp_path, *callbacks, **settings).fit(module, batches(), batches(), ckpt_path=resume)
    return module


def by_hand(epochs: int = EPOCHS) -> tuple[nn.Module, list[Any]]:
    """The same run in a plain loop."""
    model = network()
    optimizer = joint(model)
    methods = [make(model, steps=epochs * 6).attach(optimizer) for make in METHODS]
    for _ in range(epochs):
        for images, labels in batches():
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model, methods


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_the_run_is_that_of_a_plain_loop(tmp_path: Path, manual: bool) -> None:
    callback = StillbitCallback(*METHODS)
    module = fitted(tmp_path, callback, manual=manual)
    model, methods = by_hand()
    assert_equal(dict(model.state_dict()), dict(module.network.state_dict()))
    assert [method.step for method in callback.riders.methods] == [method.step for method in methods] == [24, 24]
    assert frozen(module.state_dict()) > 0
    assert module.trainer.callback_metrics["frozen"] == pytest.approx(methods[0].metrics()["frozen"])
    assert set(module.trainer.callback_metrics) >= {"oscillating", "frozen", "dampening_loss", "dampening_weight"}


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    """Bit for bit: weights, scales, pins, statistics, optimizers, histories."""
    whole, callback = tmp_path / "whole.ckpt", StillbitCallback(*METHODS, batchnorm=batches(), batchnorm_batches=2)
    fitted(tmp_path, callback, StopAfter(EPOCHS, whole))
    half = tmp_path / "half.ckpt"
    fitted(tmp_path, StillbitCallback(*METHODS, batchnorm=batches(), batchnorm_batches=2), StopAfter(2, half))
    resumed, again = tmp_path / "resumed.ckpt", StillbitCallback(*METHODS, batchnorm=batches(), batchnorm_batches=2)
    fitted(tmp_path, again, StopAfter(EPOCHS, resumed), resume=half)
    there, here = (torch.load(path) for path in (whole, resumed))
    assert 0 < frozen(torch.load(half)["state_dict"]) < frozen(there["state_dict"])
    for part in ("state_dict", "optimizer_states", "callbacks", "global_step"):
        if part == "callbacks":
            assert_equal(there[part]["StillbitCallback"], here[part]["StillbitCallback"])
        else:
            assert_equal(there[part], here[part], part)


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    callback = StillbitCallback(Tracking)
    fitted(tmp_path, callback, accumulate_grad_batches=3)
    assert callback.riders.methods[0].step == 2 * EPOCHS


def test_a_method_that_is_there_is_attached_as_it_is(tmp_path: Path) -> None:
    module = Module()
    tracking = Tracking(module.network)
    trainer(tmp_path, StillbitCallback(tracking)).fit(module, batches())
    assert tracking.step == 24
    assert tracking.tracker.histories.keys() == {"3", "6"}


@pytest.mark.parametrize("moment", ["validation", "end"])
def test_batch_norm_is_reestimated(tmp_path: Path, moment: str) -> None:
    images = digits().tensors[0]
    module = fitted(tmp_path, StillbitCallback(Tracking, batchnorm=[(images,)], batchnorm_at=moment))
    first = module.network[:1].train()(images)
    # the average over one batch of everything is that batch's own
    torch.testing.assert_close(module.network[1].running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert ("batchnorm_divergence" in module.trainer.callback_metrics) == (moment == "validation")


def test_validation_alone_changes_nothing(tmp_path: Path) -> None:
    module = Module()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer(tmp_path, StillbitCallback(Tracking, batchnorm=batches())).validate(module, batches(), verbose=False)
    assert_equal(before, dict(module.state_dict()))


def test_two_optimizers_are_refused(tmp_path: Path) -> None:
    module = Module(manual=True, optimizers=2)
    with pytest.raises(PrepareError, match=r"2 optimizers, allowed: 1; join them: stillbit\.JointOptimizer"):
        trainer(tmp_path, StillbitCallback(Tracking)).fit(module, batches())


def test_a_run_without_an_end_needs_its_steps(tmp_path: Path) -> None:
    endless = {"max_epochs": -1, "max_time": {"seconds": 1}}
    with pytest.raises(PrepareError, match="inf steps and a schedule needs their number"):
        pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[StillbitCallback(FREEZING)], **endless).fit(
            Module(), batches()
        )


def test_another_methods_checkpoint_is_refused(tmp_path: Path) -> None:
    fitted(tmp_path, StillbitCallback(Tracking), StopAfter(2, tmp_path / "half.ckpt"))
    with pytest.raises(CheckpointError, match="Tracking given, allowed: Freezing"):
        fitted(tmp_path, StillbitCallback(Freezing), resume=tmp_path / "half.ckpt")


def test_nothing_to_attach_is_refused() -> None:
    with pytest.raises(PrepareError, match="0 methods given"):
        StillbitCallback()


def test_another_moment_is_refused() -> None:
    with pytest.raises(PrepareError, match="batchnorm_at is 'always'; allowed: validation, end"):
        StillbitCallback(Tracking, batchnorm_at="always")
