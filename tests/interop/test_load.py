from pathlib import Path

import pytest
import torch
from torch import nn

from stillbit.errors import CheckpointError
from stillbit.interop import ImportReport, load_published
from tests.interop.networks import prepared_deit, published_deit, small_deit


def test_a_float_checkpoint_goes_into_a_float_model(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, model = small_deit(), small_deit()
    torch.save({"model": {f"module.{name}": tensor for name, tensor in source.state_dict().items()}}, tmp_path / "a.pth")
    report = load_published(model, tmp_path / "a.pth")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in source.state_dict().items())
    assert report == ImportReport("float", report.placed, notes=("taken from the key model",))


def test_counters_that_are_not_saved_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[1].num_batches_tracked.fill_(5)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    report = load_published(model, state)
    assert int(model[1].num_batches_tracked) == 5
    assert report.filled.keys() == {"1.num_batches_tracked"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (prepared_deit, "holds float weights, and the model is prepared; allowed: a float model"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), r"23 keys have no place \(cls_token.*2 of ours get nothing \(0\.weight, 0\.bias\)"),
        (lambda: small_deit(24), r"pos_embed is \(1, 6, 12\); allowed: \(1, 11, 12\)"),
    ],
    ids=["prepared", "another network", "another size"],
)
def test_a_float_checkpoint_elsewhere_is_refused(build: type[nn.Module], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as refusal:
        load_published(build(), small_deit().state_dict())
    assert "\n" not in str(refusal.value)


def test_the_report_says_it_in_a_few_lines() -> None:
    lines = str(load_published(prepared_deit(), published_deit())).splitlines()
    assert lines[:4] == [
        "quantized, of the ViT code (arXiv 2302.02210): 56 of 62 tensors placed",
        "5 ignored: the constant clip_val of StatsQ",
        "1 ignored: a bias that is constant in the key, which the softmax removes",
        "1 not in the checkpoint: biases of query and key, which the published products do not have: zero",
    ]
    assert len(lines) == 5
