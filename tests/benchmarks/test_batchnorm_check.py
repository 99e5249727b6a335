from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import small_resnet
from benchmarks.batchnorm_check import FILE, Check, check, depthwise_norms
from stillbit import run
from stillbit.recipes.load import load
from stillbit.recipes.small_mobilenet import small_mobilenet
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.saving import LAST


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A small ResNet after an epoch of digits."""
    folder = tmp_path / "run"
    overrides = (
        f"model.name={small_resnet.small_resnet.__name__}",
        "model.source=timm",
        "training.epochs=1",
        "training.evaluate_first=false",
        "training.device=cpu",
        "training.tensorboard=false",
    )
    run.train(load("digits_float", overrides), folder, resume=False)
    return folder


def test_running_averages_after_an_epoch_are_further_off_than_estimates_and_the_checkpoint_stays(trained: Path) -> None:
    before = (trained / LAST).read_bytes()
    found = check(trained)
    assert (trained / LAST).read_bytes() == before
    assert list(found.before) == list(found.after)
    assert len(found.before) == 11
    assert all(found.before[name] > found.after[name] >= 0 for name in found.before), found
    assert found.loss_before != found.loss_after
    history = Checkpoint.read(trained / LAST).content["position"]["history"]
    assert found.accuracy_before == history[-1]["val_top1"]
    assert found.loss_before == history[-1]["val_loss"]


def test_a_check_is_made_once(tmp_path: Path) -> None:
    known = Check(0.5, 0.6, 1.5, 1.25, {"bn1": 0.02}, {"bn1": 0.001}, [])
    (tmp_path / FILE).write_text(
        '{"accuracy_before": 0.5, "accuracy_after": 0.6, "loss_before": 1.5, "loss_after": 1.25, '
        '"before": {"bn1": 0.02}, "after": {"bn1": 0.001}, "depthwise": []}'
    )
    assert check(tmp_path) == known
    assert Check.read(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (small_mobilenet(), ["blocks.0.0.bn1", "blocks.1.0.bn2", "blocks.1.1.bn2", "blocks.2.0.bn2", "blocks.2.1.bn2"]),
        (small_resnet.SmallResNet(), []),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)), []),
    ],
    ids=["mobilenet", "resnet", "one input channel is not depthwise"],
)
def test_norms_behind_depthwise_convolutions(model: nn.Module, expected: list[str]) -> None:
    assert depthwise_norms(model) == expected


def test_the_resnet_has_the_resolutions_and_about_the_size_of_its_twin() -> None:
    model, twin = small_resnet.small_resnet(num_classes=10, in_chans=1), small_mobilenet()
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[-1]))
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    assert seen == [8, 4, 2, 2]
    ours, theirs = (sum(parameter.numel() for parameter in one.parameters()) for one in (model, twin))
    assert 0.8 < ours / theirs < 1.25
