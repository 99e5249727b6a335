import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.modules import QuantConv2d, QuantLinear
from stillbit.prepare import Override, QuantConfig, calibrate, prepare, register_layer
from stillbit.prepare.layers import _TABLE
from stillbit.quantizers import Quantizer, weight_sites
from tests.prepare.networks import WHOLE, Plain, calibrated, image, prepared, small_mobilenet, small_resnet, whole


def scan(model: nn.Module) -> dict[str, Any]:
    """Everything that prepare may not leave behind when it fails."""
    return {
        name: (module, list(module._modules), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("policy", ["lsq_paper", "all"])
@pytest.mark.parametrize("network", WHOLE)
def test_keys_and_parameters_stay(network: str, policy: str) -> None:
    model = whole(network)
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    prepared(model, policy=policy)
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert [key for key in model.state_dict() if key in keys] == keys
    added = model.state_dict().keys() - set(keys)
    assert all({"input_quantizer", "weight_quantizer", "output_quantizer"} & set(key.split(".")) for key in added)


@pytest.mark.parametrize("policy", ["lsq_paper", "integer", "all"])
def test_strict_load_into_a_freshly_prepared_model(policy: str) -> None:
    trained = calibrated(small_mobilenet(), policy=policy)
    fresh, _ = prepared(small_mobilenet(), policy=policy)
    fresh.load_state_dict(trained.state_dict(), strict=True)
    for batch in (1, 7, 64):
        x = image(batch=batch)
        assert torch.equal(fresh.eval()(x), trained.eval()(x))


@pytest.mark.parametrize("policy", ["lsq_paper", "integer", "all"])
def test_evaluation_changes_no_state(policy: str) -> None:
    model = calibrated(small_mobilenet(), policy=policy).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(image(batch=3))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_copy_computes_the_same_and_is_apart() -> None:
    model = calibrated(small_resnet(), policy="all").eval()
    twin, x = copy.deepcopy(model), image(batch=2)
    before = model(x)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    assert torch.equal(model(x), before)


def test_training_modes_and_hooks_stay() -> None:
    model = Plain()
    model.second.eval()
    called = []
    model.second.register_forward_hook(lambda *_: called.append(True))
    prepared(model)
    assert (model.first.training, model.second.training, model.second.weight_quantizer.training) == (True, False, False)
    assert model.head.input_quantizer.training
    calibrate(model, [(image(),)])
    called.clear()
    model(image())
    assert called == [True]


def test_a_layer_with_two_parents_is_swapped_at_both() -> None:
    layer = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(nn.Sequential(layer), nn.ReLU(), nn.Sequential(layer))
    prepared(model)
    assert model[0][0] is model[2][0]
    assert type(model[0][0]) is QuantConv2d


def test_float_layers_are_listed() -> None:
    model, coverage = prepared(Plain(), overrides=(Override("second", weight_bits=32),))
    assert coverage.float_layers == ("second",)
    assert type(model.second) is nn.Conv2d
    assert str(coverage) == ("2 weight quantizers (2 at 8 bits), 1 activation quantizers (1 at 8 bits), in full precision: second")


def test_an_output_that_changes_by_the_swap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(QuantLinear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    monkeypatch.setitem(_TABLE, nn.Linear, Wrong)
    with pytest.raises(PrepareError, match=r"^the model's output changed by 1 by swapping its layers, before any quantization$"):
        prepared(Plain())


def test_an_uncalibrated_quantizer_in_use_is_named() -> None:
    model, _ = prepared(Plain())
    with pytest.raises(PrepareError, match=r"^quantizer first.weight_quantizer has no range yet; run calibrate, or load"):
        model(image())


class Own(nn.Linear):
    pass


class Idle(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 2)


class TwoShapes(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x[..., 1:])


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x[0], x[0], x[0])[0]


class Asserting(nn.Sequential):
    """Says without a word that images shall have another size, as some networks do."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 3, 1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002 - it reads nothing
        raise AssertionError


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: prepared(Plain())[0], "the model is prepared already; prepare a float model", id="twice"),
        pytest.param(
            lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Own(32, 2)), "layer 1 is a Own, which cannot be quantized; register", id="subclass"
        ),
        pytest.param(lambda: nn.Sequential(nn.LSTM(32, 4)), "layer 0 is a LSTM, which cannot be quantized", id="lstm"),
        pytest.param(Attending, "layer attention is a MultiheadAttention, which cannot be quantized", id="attention"),
        pytest.param(lambda: nn.Sequential(nn.Conv3d(1, 1, 3)), "layer 0 is a Conv3d, which cannot be quantized", id="conv3d"),
        pytest.param(lambda: nn.Sequential(nn.ReLU()), "the model (Sequential) holds no layer to quantize", id="empty"),
        pytest.param(lambda: nn.Linear(32, 2), "the model (Linear) holds no layer to quantize; a single layer must stand in", id="bare"),
        pytest.param(
            lambda: nn.Sequential(nn.Conv2d(4, 4, 1)), "the example ((1, 3, 32, 32)) does not run through the model: Given", id="shape"
        ),
        pytest.param(Asserting, "the example ((1, 3, 32, 32)) does not run through the model: AssertionError", id="assertion"),
        pytest.param(
            Idle, "the example never reaches quantizer spare.input_quantizer (and 1 more); leave the layer out by an override", id="idle"
        ),
        pytest.param(Deaf, "the example reaches none of the model's layers (layer)", id="none"),
        pytest.param(
            TwoShapes, "quantizer second.input_quantizer sees two shapes, (1, 4, 30, 30) and (1, 4, 30, 29); give each use", id="two_shapes"
        ),
    ],
)
def test_refusals_are_one_line_and_change_nothing(build: Any, message: str) -> None:
    model = build()
    before = scan(model)
    with pytest.raises(PrepareError) as caught:
        prepared(model)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert scan(model) == before


def test_a_failing_output_policy_changes_nothing() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_mobilenet(hard_swish=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.inner(x[..., 4:])

    model = Twice()
    before = scan(model)
    with pytest.raises(PrepareError, match="sees two shapes"):
        prepared(model, policy="integer")
    assert scan(model) == before


def test_a_registered_layer_is_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    class QuantOwn(Own, QuantLinear):
        pass

    monkeypatch.setitem(_TABLE, Own, nn.Identity)  # so that the table is as before after this test
    with pytest.raises(PrepareError, match=r"^QuantLinear must be a subclass of Own with a method weight_sites$"):
        register_layer(Own, QuantLinear)
    with pytest.raises(PrepareError, match=r"^Idle must be a subclass of Plain with a method weight_sites$"):
        register_layer(Plain, Idle)
    register_layer(Own, QuantOwn)
    model, _ = prepared(nn.Sequential(nn.Conv2d(3, 3, 1), Own(32, 2)))
    assert type(model[1]) is QuantOwn


def test_transposed_and_grouped_convolutions_share_a_scale_by_output_channel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ConvTranspose2d(6, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(30, 2))
    prepared(model, per_channel=True)
    shapes = [tuple(site.quantizer.scale.shape) for site in weight_sites(model)]
    assert shapes == [(6, 1, 1, 1), (1, 4, 1, 1), (4, 1, 1, 1), (2, 1)]
    calibrate(model, [(image(),)])
    transposed = model[1]
    largest = transposed.weight.detach().abs().amax((0, 2, 3), keepdim=True)
    torch.testing.assert_close(transposed.weight_quantizer.scale, largest / 7)  # range over scale, both rounded to float32


def test_grouped_transposed_convolution_keeps_its_scales_by_channel_within_a_group() -> None:
    """The weight of 6 -> 4 channels in 2 groups is (6, 2, 3, 3): output channel 2 g + c shares the scale of c."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 3, groups=2))
    prepared(model, per_channel=True)
    assert tuple(model[1].weight_quantizer.scale.shape) == (1, 2, 1, 1)


def test_pins_are_there_for_all_but_8_bits() -> None:
    model, _ = prepared(Plain())
    pins = {site.name: site.quantizer.pins for site in weight_sites(model)}
    assert (pins["first"], pins["head"]) == (None, None)
    assert pins["second"].shape == model.second.weight.shape


def test_quantizers_know_their_names() -> None:
    model, _ = prepared(small_mobilenet(), policy="all")
    assert all(module.label == name for name, module in model.named_modules() if isinstance(module, Quantizer))


def test_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"sum": self.left(x) + self.right(y)}

    coverage = prepare(Two(), QuantConfig(), example=(torch.zeros(1, 3), torch.zeros(1, 4)))
    assert [one.shape for one in coverage.activations] == [(1, 4)]


@pytest.mark.parametrize("policy", ["lsq_paper", "all", "integer"])
def test_the_model_runs_twice(policy: str) -> None:
    model, runs = small_mobilenet(), []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    prepare(model, QuantConfig.parse("W4A4", policy=policy), example=image())
    assert len(runs) == 2


def test_bits_and_a_shape_are_enough() -> None:
    told, short = small_mobilenet().double(), small_mobilenet().double()
    coverage = prepare(told, QuantConfig.parse("W3A4"), example=image().double())
    assert prepare(short, "W3A4", example=tuple(image().shape)) == coverage
