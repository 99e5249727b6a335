"""Recording keeps positions step by step, and across a resume."""

import pytest
import torch
from torch import nn

from stillbit.errors import CheckpointError, RecipeError
from stillbit.oscillation.recording import Recording
from stillbit.prepare import QuantConfig, prepare
from stillbit.quantizers import weight_sites


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    prepare(model, QuantConfig.parse("W4A4"), example=torch.zeros(1, 4))
    for site in weight_sites(model):
        site.quantizer.set_range(torch.tensor([-1.0]), torch.tensor([1.0]))
    return model


def test_positions_are_those_of_each_step(model: nn.Module) -> None:
    recording = Recording(model, layers="0", weights=5, steps=3)
    site = weight_sites(model)[0]
    wanted = []
    for step in (1, 2):
        site.write(torch.ones(6, 4, dtype=torch.bool), torch.full((6, 4), step / 10))
        recording.after_step(step)
        wanted.append(site.quantizer.position(site.latent()).flatten()[:5])
    assert list(recording.positions) == ["0"]
    assert torch.equal(recording.positions["0"][:2], torch.stack(wanted))
    assert recording.positions["0"][2].isnan().all()


def test_steps_beyond_the_room_are_left_out(model: nn.Module) -> None:
    recording = Recording(model, layers="*", weights=1000, steps=1)
    recording.after_step(2)
    assert recording.positions["0"].shape == (1, 24)
    assert recording.positions["0"].isnan().all()


def test_state_comes_back(model: nn.Module) -> None:
    first, second = (Recording(model, steps=2, layers="2", weights=4) for _ in range(2))
    first.after_step(1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.positions["2"][0], first.positions["2"][0])
    with pytest.raises(CheckpointError, match=r"recording: positions of \{'2': \[2, 4\]\} given, allowed: \{'0': \[2, 4\]\}"):
        Recording(model, steps=2, layers="0", weights=4).load_state_dict(first.state_dict())


def test_a_pattern_without_a_layer_is_refused(model: nn.Module) -> None:
    with pytest.raises(RecipeError, match="layers is 'stem', which matches no quantized layer; there are 0, 2"):
        Recording(model, layers="stem", weights=1, steps=1)
