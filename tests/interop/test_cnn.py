import argparse
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError
from stillbit.interop import load_published
from stillbit.prepare import QuantConfig, prepare
from tests.golden.case import OWN, Case, close
from tests.golden.end_to_end import float_model
from tests.interop.networks import prepared_deit


def network() -> nn.Module:
    first = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6()]
    second = [nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(6, 5)).eval()


def prepared(**settings: Any) -> nn.Module:
    model = network()
    prepare(model, QuantConfig.parse("W4A4", **settings), example=torch.zeros(1, 3, 5, 5))
    return model


def published(*, asymmetric: bool = False) -> dict[str, Tensor]:
    """Return a state dict of `network` as the published code saves it; the image and the logits stay float."""
    state = {
        "0.weight": torch.randn(4, 3, 3, 3),
        "1.weight": torch.randn(6, 4, 1, 1),
        "4.weight": torch.randn(5, 6),
        "4.bias": torch.randn(5),
    }
    for name, width in (("0", 4), ("1", 6)):
        state |= {f"{name}.gamma": torch.rand(width), f"{name}.beta": torch.randn(width)}
        state |= {f"{name}.running_mean": torch.randn(width), f"{name}.running_var": torch.rand(width)}
    of_weights, of_inputs = ("0", "1", "4"), ("1", "4")
    for manager in [f"{name}.weight_quantizer" for name in of_weights] + [f"{name}.activation_quantizer" for name in of_inputs]:
        scale = torch.rand(1) + 0.1
        state |= {f"{manager}.quantizer._delta": scale, f"{manager}.range_estimator.quantizer._delta": scale}
        state |= {f"{manager}.range_estimator.current_xmax": torch.ones(1)}
        if asymmetric:
            state |= {f"{manager}.quantizer._zero_float": torch.rand(1)}
        else:
            state |= {f"{manager}.quantizer._signed": torch.tensor("weight" in manager)}
    return state


def test_a_state_dict_goes_where_it_belongs() -> None:
    model, state = prepared(), published()
    report = load_published(model, {"model": state, "optimizer": None, "scheduler": None})
    ours = model.state_dict()
    assert torch.equal(ours["0.weight"], state["0.weight"])
    assert torch.equal(ours["1.bias"], state["0.beta"])
    assert torch.equal(ours["4.running_var"], state["1.running_var"])
    assert torch.equal(ours["7.input_quantizer.scale"], state["4.activation_quantizer.quantizer._delta"])
    assert [model.get_submodule(f"{name}_quantizer").is_signed for name in ("3.weight", "3.input")] == [True, False]
    assert set(report.ignored.values()) == {
        "the quantizer's state a second time, seen through its range search",
        "state of the range search, which is over",
    }
    assert all(name.endswith("num_batches_tracked") for name in report.filled)
    model(torch.randn(2, 3, 5, 5))


def test_asymmetric_quantizers_have_zero_points_and_no_sign() -> None:
    model, state = prepared(weight_symmetric=False, activation_symmetric=False), published(asymmetric=True)
    load_published(model, state)
    assert torch.equal(model.get_submodule("3.weight_quantizer").zero_point, state["1.weight_quantizer.quantizer._zero_float"])
    assert not model.get_submodule("3.weight_quantizer").is_signed


def test_a_quantizer_without_a_scale_was_never_used() -> None:
    state = published() | {"2.activation_quantizer.quantizer._signed": torch.tensor(False)}
    assert "never used" in load_published(prepared(), state).ignored["2.activation_quantizer.quantizer._signed"]


def by_channel() -> dict[str, Tensor]:
    names = [f"1.weight_quantizer.{place}quantizer._delta" for place in ("", "range_estimator.")]
    return published() | dict.fromkeys(names, torch.ones(6, 1, 1, 1))


def without(*keys: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in published().items() if name not in keys}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("1.gamma"), r"1 of ours get nothing \(4\.weight\)"),
        (without("1.weight_quantizer.quantizer._signed"), r"1 quantizers get no sign \(3\.weight_quantizer\)"),
        (published() | {"0.activation_quantizer.quantizer._delta": torch.ones(1)}, r"1 keys have no place \(0\.activation_quantizer"),
        (by_channel(), r"is \(6, 1, 1, 1\); allowed: \(1,\), as 3\.weight_quantizer\.scale is"),
        (
            published() | {"1.weight_quantizer.range_estimator.quantizer._delta": torch.zeros(1)},
            "differs from 1.weight_quantizer.quantizer._delta",
        ),
    ],
    ids=["norm", "sign", "outputs quantized", "per channel", "two states"],
)
def test_what_does_not_fit_is_refused(state: dict[str, Tensor], message: str) -> None:
    model = prepared()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_published(model, state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_wrong_codebase_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"of the CNN code \(arXiv 2203\.11086\); the model is prepared for the ViT code"):
        load_published(prepared_deit(), published())
    with pytest.raises(CheckpointError, match=r"of the ViT code \(arXiv 2302\.02210\); the model is prepared otherwise"):
        load_published(prepared(), {"head.input_quant_fn.s": torch.ones(1)})


def test_a_float_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="the model is in full precision"):
        load_published(network(), published())


def test_the_golden_network_gives_its_logits() -> None:
    case = Case.load(OWN / "cnn" / "e2e_a_lsq_f64.safetensors")
    common = case.sibling("e2e_data")
    held, bits = common.tensors["held_x"], common.config["n_bits"]
    model = float_model(common)
    prepare(model, QuantConfig.parse(f"W{bits}A{bits}", published=True), example=held)
    model.double()
    # The golden files hold what trains; the signs, which the published state dicts have too, stand in their configuration.
    state = {name.removeprefix("final."): tensor for name, tensor in case.tensors.items() if name.startswith("final.")}
    signs = {f"{name}._signed": torch.tensor(one["signed"]) for name, one in common.config["quantizers"].items()}
    load_published(model, {"state_dict": state | signs, "args": argparse.Namespace()})
    with torch.no_grad():
        close(model.eval()(held.double()), case.tensors["final_logits_eval_ema_bn"], 1e-9, "logits")  # docs/spec/cnn.md, 11: float64
