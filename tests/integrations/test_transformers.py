"""The callback in the Trainer of transformers: the same run as a plain loop, resumed to the bit."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments

from stillbit.errors import CheckpointError, PrepareError
from stillbit.integrations.transformers import StillbitCallback
from stillbit.oscillation import Dampening, Tracking
from stillbit.prepare import parameter_groups, weights
from tests.equality import assert_equal
from tests.integrations.digits import FREEZING, digits, frozen, joint, network

STEPS = 24
METHODS = (FREEZING, partial(Dampening, final_weight=0.01))

# The trainer says to each model without a GPU that it will not pin memory.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found:UserWarning")


class Classifier(nn.Module):
    """The small network in the form that the trainer wants."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.network(pixel_values)
        return {"logits": logits} if labels is None else {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class InOrder(Trainer):
    """Takes the images in order, so that a plain loop sees the same."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def items() -> list[dict[str, Tensor]]:
    return [{"pixel_values": image, "labels": label} for image, label in digits()]


def trained(
    folder: Path,
    *callbacks: TrainerCallback,
    kind: type[Trainer] = Trainer,
    resume: Path | None = None,
    optimizer: Any = joint,
    **settings: Any,
) -> Trainer:
    fixed = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "save_steps": 12,
        "logging_steps": 6,
    }
    args = TrainingArguments(str(folder), per_device_train_batch_size=16, max_steps=STEPS, max_grad_norm=0.0, **{**fixed, **settings})
    model = Classifier()
    built = optimizer(model)
    constant = torch.optim.lr_scheduler.LambdaLR(built, lambda _: 1.0)
    trainer = kind(model, args, train_dataset=items(), eval_dataset=items()[:32], optimizers=(built, constant), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def one_group(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(model, weight_decay=0.01, scale_lr=1e-4), lr=0.01)


def test_the_run_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    callback = StillbitCallback(*METHODS)
    trainer = trained(tmp_path, callback, kind=InOrder)
    model = Classifier()
    optimizer = joint(model)
    methods = [make(model, steps=STEPS).attach(optimizer) for make in METHODS]
    images, labels = digits().tensors
    for step in range(STEPS):
        batch = slice(16 * (step % 6), 16 * (step % 6 + 1))
        optimizer.zero_grad()
        model(images[batch], labels[batch])["loss"].backward()
        optimizer.step()
    assert_equal(dict(model.state_dict()), dict(trainer.model.state_dict()))
    assert frozen(dict(model.state_dict())) > 0
    assert callback.riders.methods[0].step == methods[0].step == STEPS


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [(joint, {}), (one_group, {"gradient_accumulation_steps": 2})],
    ids=["joint", "groups-accumulated"],
)
def test_a_resumed_run_is_the_same_run(tmp_path: Path, optimizer: Any, settings: dict[str, Any]) -> None:
    """Bit for bit: weights, scales, pins, statistics, optimizer, histories."""
    trained(tmp_path / "whole", StillbitCallback(*METHODS), optimizer=optimizer, **settings)
    trained(tmp_path / "broken", StillbitCallback(*METHODS), StopAt(12), optimizer=optimizer, **settings)
    half = tmp_path / "broken" / "checkpoint-12"
    trained(tmp_path / "broken", StillbitCallback(*METHODS), resume=half, optimizer=optimizer, **settings)
    whole, resumed = (tmp_path / name / f"checkpoint-{STEPS}" for name in ("whole", "broken"))
    assert_equal(load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors"))
    assert frozen(load_file(half / "model.safetensors")) < frozen(load_file(whole / "model.safetensors"))
    assert_equal(torch.load(whole / "optimizer.pt"), torch.load(resumed / "optimizer.pt"))
    there, here = (torch.load(folder / "stillbit.pt")["methods"] for folder in (whole, resumed))
    assert_equal(there, here)
    assert there[0]["state"]["step"] == STEPS


def test_figures_are_in_the_log(tmp_path: Path) -> None:
    trainer = trained(tmp_path, StillbitCallback(*METHODS))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == 4
    assert all(entry.keys() >= {"oscillating", "frozen", "dampening_loss"} for entry in history)
    assert history[-1]["frozen"] > 0.0
    saved = json.loads((tmp_path / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    assert saved["log_history"][-1]["frozen"] == history[-1]["frozen"]


def test_batch_norm_is_reestimated_before_evaluation(tmp_path: Path) -> None:
    images = digits().tensors[0]
    trainer = trained(tmp_path, StillbitCallback(Tracking, batchnorm=[(images,)]), eval_strategy="steps", eval_steps=STEPS)
    layers = trainer.model.network
    # the average over one batch of everything is that batch's own
    torch.testing.assert_close(layers[1].running_mean, layers[:1].train()(images).mean((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_without_the_callback_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "checkpoint-12").rename(tmp_path / "half")
    with pytest.raises(CheckpointError, match=r"checkpoint-12 has no stillbit\.pt; .* resume_from="):
        trained(tmp_path, StillbitCallback(*METHODS), resume=tmp_path / "half")


@pytest.mark.end_to_end
def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    for name, settings in (("here", {}), ("there", {"seed": 7})):
        trained(tmp_path / name, StillbitCallback(*METHODS), StopAt(12), **settings)
    half = tmp_path / "there" / "checkpoint-12"
    with pytest.raises(CheckpointError, match="belongs to another run"):
        trained(tmp_path / "here", StillbitCallback(*METHODS), resume=half)
    callback = StillbitCallback(*METHODS, resume_from=half)
    trained(tmp_path / "here", callback, resume=half)
    assert callback.riders.methods[0].step == STEPS


def test_an_optimizer_without_scales_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"the optimizer misses \d+ quantizer parameters"):
        trained(tmp_path, StillbitCallback(*METHODS), optimizer=lambda model: torch.optim.SGD(weights(model), lr=0.1))
