import re
from typing import Any

import pytest
from torch import nn

from stillbit.errors import RecipeError
from stillbit.numerics import EWGS, STE, StackedSigmoid
from stillbit.prepare import Override, QuantConfig
from stillbit.prepare.plan import LayerPlan, plan_layers
from stillbit.quantizers import LSQ, FixedRange

LAYERS = {
    "stem": nn.Conv2d(3, 8, 3),
    "depthwise": nn.Conv2d(8, 8, 3, groups=8),
    "grouped": nn.Conv2d(8, 8, 3, groups=4),
    "head": nn.Linear(8, 2),
}
ORDER = list(LAYERS)


def plan(bits: str = "W3A4", **settings: Any) -> list[tuple[int, int]]:
    plans = plan_layers(nn.Module(), LAYERS, ORDER, (), QuantConfig.parse(bits, **settings))
    return [(one.weight_bits, one.input_bits) for one in plans.values()]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("lsq_paper", [(8, 32), (3, 4), (3, 4), (8, 8)]),
        ("integer", [(8, 8), (3, 4), (3, 4), (8, 8)]),
        ("lsq", [(8, 32), (3, 32), (3, 32), (8, 32)]),
        ("fp_logits", [(3, 32)] * 4),
        ("all", [(3, 32)] * 4),
        ("fc4", [(8, 32), (3, 32), (3, 32), (4, 32)]),
        ("fc4_dw8", [(8, 32), (8, 32), (3, 32), (4, 32)]),
    ],
)
def test_widths_by_policy(policy: str, expected: list[tuple[int, int]]) -> None:
    assert plan(policy=policy) == expected


def test_first_and_last_go_by_call_order() -> None:
    plans = plan_layers(nn.Module(), LAYERS, ["head", "grouped", "depthwise", "stem"], (), QuantConfig.parse("W3A4"))
    assert plans["head"] == LayerPlan(8, 32)
    assert plans["stem"] == LayerPlan(8, 8)


def test_32_activation_bits_leave_inputs_alone() -> None:
    for policy in ("lsq_paper", "integer"):
        assert plan("W3A32", policy=policy) == [(8, 32), (3, 32), (3, 32), (8, 32)]


def test_the_last_override_that_matches_counts_field_by_field() -> None:
    overrides = (Override("*", weight_bits=5), Override("d*", activation_bits=6), Override("*wise", weight_bits=7), Override("stem", 6, 8))
    assert plan(overrides=overrides) == [(6, 8), (7, 6), (5, 4), (5, 8)]


def test_override_takes_an_input_out() -> None:
    assert plan(overrides=(Override("head", activation_bits=32),))[-1] == (8, 32)


@pytest.mark.parametrize("bits", ["W4A4", "w4a4", " W4A4 "])
def test_parse_reads_widths(bits: str) -> None:
    assert QuantConfig.parse(bits) == QuantConfig(weight_bits=4, activation_bits=4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QuantConfig(weight_bits=0), "weight_bits is 0; allowed are 2 to 8 (an override leaves single layers at 32)"),
        (lambda: QuantConfig(weight_bits=1), "weight_bits is 1; allowed are 2 to 8 (an override leaves single layers at 32)"),
        (lambda: QuantConfig(activation_bits=33), "activation_bits is 33; allowed are 2 to 8, or 32 for full precision"),
        (lambda: QuantConfig(weight_bits="four"), "weight_bits is 'four'; allowed are 2 to 8 (an override leaves single layers at 32)"),
        (lambda: QuantConfig(weight_bits=True), "weight_bits is True; allowed are 2 to 8 (an override leaves single layers at 32)"),
        (lambda: QuantConfig(weight_bits=32), "weight_bits is 32; allowed are 2 to 8 (an override leaves"),
        (lambda: QuantConfig.parse("W0A4"), "weight_bits is 0; allowed are 2 to 8 (an override leaves single layers at 32)"),
        (lambda: QuantConfig.parse("four"), "bits are 'four'; write them as W4A4 (weights 2 to 8, activations 2 to 8 or 32)"),
        (lambda: QuantConfig(policy="best"), "policy is 'best'; allowed: lsq_paper, integer, lsq, fp_logits, all, fc4, fc4_dw8"),
        (lambda: QuantConfig(rounding="up"), "rounding is 'up'; allowed: ste, ewgs, stacked_sigmoid, stochastic"),
        (lambda: QuantConfig(quantizer="pact"), "quantizer is 'pact'; allowed: lsq, fixed, statsq"),
        (lambda: QuantConfig(rounding_strength=2.0), "rounding_strength is 2.0; rounding 'ste' has no strength"),
        (lambda: Override("a.*", weight_bits=33), "override for 'a.*': weight_bits is 33; allowed are 2 to 8, or 32 for full precision"),
    ],
)
def test_refusals_are_one_line(build: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}"):
        build()


def test_each_setting_reaches_the_quantizer() -> None:
    rounding = {"rounding": "ewgs", "rounding_strength": 0.1}
    gradients = {"ste_range": "position", "log_scale": True, "scale_gradient": "lsq", "published": True}
    config = QuantConfig(weight_symmetric=False, **rounding, **gradients)
    weight, activation = config.weight_quantizer(3, (4, 1)), config.activation_quantizer(5)
    assert isinstance(weight, LSQ)
    assert isinstance(activation, LSQ)
    assert (weight.bits, weight.scale_shape, weight.symmetric) == (3, (4, 1), False)
    assert (activation.bits, activation.scale_shape, activation.symmetric) == (5, (1,), True)
    for quantizer in (weight, activation):
        assert quantizer.rounding == EWGS(0.1)
        assert (quantizer.ste_range, quantizer.log_scale, quantizer.scale_gradient, quantizer.published) == ("position", True, "lsq", True)


def test_fixed_ranges_and_default_strengths() -> None:
    assert type(QuantConfig(quantizer="fixed").weight_quantizer(4, (1,))) is FixedRange
    assert QuantConfig().weight_quantizer(4, (1,)).rounding == STE()
    assert QuantConfig(rounding="stacked_sigmoid").activation_quantizer(4).rounding == StackedSigmoid()
