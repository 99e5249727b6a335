"""Weights that do not train: methods watch them, and write to none, neither latents nor pins nor gradients."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from stillbit.oscillation import Annealing, Dampening, Freezing, Method, Tracking
from stillbit.prepare import calibrate, prepare, scales, weights
from stillbit.quantizers import weight_sites
from stillbit.training.optim import JointOptimizer

METHODS: dict[str, Callable[[nn.Module], Method]] = {
    "tracking": lambda model: Tracking(model, ema_momentum=0.2),
    "freezing": lambda model: Freezing(model, threshold=0.01, ema_momentum=0.2),
    "freezing-published": lambda model: Freezing(model, threshold=0.01, ema_momentum=0.2, published=True),
    "dampening": lambda model: Dampening(model, weight=0.1),
    "annealing": lambda model: Annealing(model, boundary_range=0.4),
}


def trained(make: Callable[[nn.Module], Method], resting: int, *, scale_too: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """Train a network of which one layer's weight rests, by a rate at which scales and codes move much; return it before and after."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 4)
    )
    prepare(model, "W3A3", example=(1, 3, 8, 8))
    images, labels = torch.randn(16, 3, 8, 8), torch.randint(0, 4, (16,))
    calibrate(model, [(images,)])
    model[resting].weight.requires_grad_(False)
    if scale_too:
        model[resting].weight_quantizer.scale.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = JointOptimizer(
        torch.optim.SGD([one for one in weights(model) if one.requires_grad], lr=0.05),
        torch.optim.Adam([one for one in scales(model) if one.requires_grad], lr=1e-2),
    )
    make(model).attach(optimizer)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return before, model


@pytest.mark.parametrize("scale_too", [False, True], ids=["scale-trains", "scale-rests"])
@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_nothing_is_written_to_a_weight_that_rests(make: Callable[[nn.Module], Method], scale_too: bool) -> None:
    before, model = trained(make, resting=2, scale_too=scale_too)
    layer = model[2]
    assert torch.equal(layer.weight, before["2.weight"])
    assert layer.weight.grad is None
    if layer.weight_quantizer.pins is not None:
        assert torch.equal(layer.weight_quantizer.pins, before["2.weight_quantizer.pins"])
    assert torch.equal(layer.weight_quantizer.scale, before["2.weight_quantizer.scale"]) == scale_too
    assert not torch.equal(model[0].weight, before["0.weight"])


@pytest.mark.parametrize("make", [METHODS["freezing"], METHODS["freezing-published"]], ids=["freezing", "freezing-published"])
def test_weights_beside_it_are_frozen_still(make: Callable[[nn.Module], Method]) -> None:
    _, model = trained(make, resting=2, scale_too=False)
    pinned = {site.name: int((site.quantizer.pins != -128).sum()) for site in weight_sites(model) if site.quantizer.pins is not None}
    assert pinned["2"] == 0
    assert pinned["4"] > 0


@pytest.mark.parametrize("scale_too", [False, True])
def test_a_scale_that_trains_alone_is_warned_of_once(scale_too: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="stillbit"):
        trained(METHODS["freezing"], resting=2, scale_too=scale_too)
    told = [record.getMessage() for record in caplog.records if "does not train" in record.getMessage()]
    assert len(told) == (0 if scale_too else 1)


def test_a_penalty_without_a_weight_that_trains_is_zero() -> None:
    _, model = trained(METHODS["tracking"], resting=2, scale_too=True)
    for layer in (model[0], model[2], model[4], model[6]):
        layer.weight.requires_grad_(False)
    assert Dampening(model, weight=0.1).penalty().item() == 0.0
