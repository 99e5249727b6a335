from typing import Any

import pytest
import torch

from stillbit.errors import RecipeError
from stillbit.numerics.ranges import CurrentMinMax, MeanMagnitude, MSEGoldenSection, MSEGrid, RangeConfig, RunningMinMax
from stillbit.quantizers import LSQ


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, MSEGrid),
        ({"search": "golden_section"}, MSEGoldenSection),
        ({"estimator": "current_minmax", "percentile": 1.0}, CurrentMinMax),
        ({"estimator": "running_minmax", "momentum": 0.5}, RunningMinMax),
        ({"estimator": "mean_magnitude", "signed": False}, MeanMagnitude),
    ],
    ids=["mse_grid", "mse_golden_section", "current_minmax", "running_minmax", "mean_magnitude"],
)
def test_each_estimator_gets_its_settings(settings: dict[str, Any], kind: type) -> None:
    estimator = RangeConfig(**settings).build(symmetric=True, bits=4, channel_axis=1)
    assert type(estimator) is kind
    assert estimator.channel_axis == 1
    for name in settings.keys() - {"estimator", "search"}:
        assert getattr(estimator, name) == settings[name]


def test_mse_settings_reach_the_search() -> None:
    estimator = RangeConfig(candidates=7, margin=0.1, margin_mode="relative").build(symmetric=False, bits=3)
    assert isinstance(estimator, MSEGrid)
    found = (estimator.candidates, estimator.margin, estimator.margin_mode, estimator.symmetric, estimator.bits)
    assert found == (7, 0.1, "relative", False, 3)


def test_each_build_is_fresh() -> None:
    config = RangeConfig()
    first, second = (config.build(symmetric=True, bits=4) for _ in range(2))
    first.update(torch.ones(3))
    assert isinstance(second, MSEGrid)
    assert second.losses is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "max"}, "estimator is 'max'; allowed: mse, current_minmax, running_minmax, mean_magnitude"),
        ({"signed": 1}, "signed is 1; allowed are True, False, None"),
        ({"estimator": "mean_magnitude", "momentum": 0.5}, "momentum is read by the estimator 'running_minmax' only"),
        ({"search": "random"}, "search is 'random'; allowed: grid, golden_section"),
        ({"candidates": 0}, "candidates is 0; allowed: 1 or more"),
        ({"margin": -0.1}, "margin is -0.1; allowed: 0 or more"),
        ({"margin_mode": "x"}, "margin_mode is 'x'; allowed: absolute, relative"),
        ({"estimator": "current_minmax", "percentile": 50}, "percentile is 50; allowed: between 0 and 50"),
        ({"estimator": "running_minmax", "momentum": 1.0}, "momentum is 1.0; allowed: at least 0, below 1"),
        ({"percentile": 1.0}, "percentile is read by the estimator 'current_minmax' only; the estimator is 'mse'"),
        ({"momentum": 0.5}, "momentum is read by the estimator 'running_minmax' only; the estimator is 'mse'"),
        ({"estimator": "current_minmax", "candidates": 50}, "candidates is read by the estimator 'mse' only"),
    ],
    ids=lambda given: str(given) if isinstance(given, dict) else "",
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        RangeConfig(**settings)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"signed": True}, "signed is True; allowed are None on asymmetric grids"),
        ({"estimator": "mean_magnitude"}, "estimator is 'mean_magnitude'; allowed are on asymmetric grids mse"),
    ],
    ids=["signed", "mean_magnitude"],
)
def test_what_asymmetric_grids_cannot_have(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        RangeConfig(**settings).build(symmetric=False, bits=4)
    assert message in str(refused.value)


SETTINGS = {
    "grid": {},
    "golden_section": {"search": "golden_section"},
    "current_minmax": {"estimator": "current_minmax"},
    "percentile": {"estimator": "current_minmax", "percentile": 1.0},
    "running_minmax": {"estimator": "running_minmax"},
    "mean_magnitude": {"estimator": "mean_magnitude"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("lowest", [-1.0, 0.0], ids=["two-sided", "one-sided"])
@pytest.mark.parametrize("signed", [True, False, None], ids=["signed", "unsigned", "by the data"])
def test_the_sign_of_the_grid(settings: dict[str, Any], lowest: float, signed: bool | None) -> None:
    x = torch.randn(400).clamp(min=lowest)
    quantizer = LSQ(3)
    quantizer.range_config = RangeConfig(**settings, signed=signed)
    quantizer.set_range(*quantizer.range_config.build(symmetric=True, bits=3).update(x))
    assert quantizer.is_signed is (lowest < 0 if signed is None else signed)
    assert quantizer.limits == ((-4, 3) if quantizer.is_signed else (0, 7))


@pytest.mark.parametrize("lowest", [-2.0, 0.0], ids=["two-sided", "one-sided"])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_the_search_measures_the_grid_that_it_will_get(lowest: float, signed: bool) -> None:
    x = torch.randn(2000).clamp(min=lowest)
    config = RangeConfig(signed=signed)
    quantizer = LSQ(3)
    quantizer.range_config = config

    def error(x_max: float) -> float:
        quantizer.set_range(-x_max if signed else 0.0, x_max)
        return float((quantizer(x) - x).square().sum().detach())

    found = float(config.build(symmetric=True, bits=3).update(x)[1])
    assert error(found) <= min(error(found * factor) for factor in (0.7, 0.85, 1.2, 1.4))


def test_what_an_unsigned_grid_cuts_off_does_not_widen_its_search() -> None:
    x = torch.linspace(0, 1, 100)
    config = RangeConfig(signed=False)
    with_negatives = config.build(symmetric=True, bits=3).update(torch.cat([x, torch.tensor([-50.0])]))
    assert torch.equal(with_negatives[1], config.build(symmetric=True, bits=3).update(x)[1])
