"""Weights whose sign calibration cannot know: zero heads, zero convolutions, LoRA's B, rows that are nowhere negative."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.quantizers import weight_sites
from tests.prepare.networks import MINMAX

BEGINNINGS: dict[str, Callable[[torch.Tensor], Any]] = {
    "zero": nn.init.zeros_,
    "positive": lambda weight: weight.abs_(),
    "constant": lambda weight: weight.fill_(0.1),
    "one-positive-row": lambda weight: weight[0].abs_(),
    "ordinary": lambda weight: weight,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "lsq": {},
    "lsq-per_channel": {"per_channel": True},
    "lsq-log_scale": {"per_channel": True, "log_scale": True},
    "lsq-minmax": {"weight_range": MINMAX},
    "fixed": {"quantizer": "fixed"},
    "statsq": {"quantizer": "statsq", "per_channel": True},
}


def quantized(beginning: str, **settings: Any) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            BEGINNINGS[beginning](layer.weight)
    prepare(model, QuantConfig.parse("W4A4", **settings), example=(2, 8))
    calibrate(model, [(torch.randn(64, 8),)])
    return model


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_weights_may_become_negative(beginning: str, settings: dict[str, Any]) -> None:
    for site in weight_sites(quantized(beginning, **settings)):
        quantizer = site.quantizer
        assert quantizer.is_signed
        low, high = (quantizer(torch.full_like(site.latent(), end)).flatten()[0].item() for end in (-1.0, 1.0))
        assert low < 0.0 < high


def test_an_asymmetric_grid_has_unsigned_codes_and_a_zero_point() -> None:
    assert not any(site.quantizer.is_signed for site in weight_sites(quantized("ordinary", weight_symmetric=False)))


def test_as_published_the_sign_is_that_of_the_first_weights() -> None:
    assert not any(site.quantizer.is_signed for site in weight_sites(quantized("positive", published=True)))
