import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import DataError, PrepareError
from stillbit.numerics.ranges import RangeConfig
from stillbit.prepare import QuantConfig, prepare
from stillbit.prepare.calibrate import calibrate
from stillbit.quantizers import LSQ, Quantizer, weight_sites

MINMAX = RangeConfig(estimator="current_minmax")
RUNNING = RangeConfig(estimator="running_minmax", momentum=0.5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).clamp(0, 6))
        return self.head(x.mean((2, 3)))


def prepared(model: nn.Module | None = None, **settings: Any) -> nn.Module:
    model = Net() if model is None else model
    prepare(model, QuantConfig.parse("W3A4", **settings), example=torch.zeros(1, 3, 8, 8))
    return model


def images(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(2, 3, 8, 8) * (1 + index), torch.zeros(2)) for index in range(count)]


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


def test_layers_fit_in_forward_order_to_quantized_inputs() -> None:
    model = prepared(activation_range=MINMAX, weight_range=MINMAX).eval()
    (batch,) = images(1)
    calibrate(model, [batch])
    with torch.no_grad():
        weight = model.first.weight_quantizer(model.first.weight)
        hidden = model.norm(nn.functional.conv2d(batch[0], weight, model.first.bias)).clamp(0, 6)
        assert model.second.input_quantizer.scale.item() == (hidden.max() / 15).item()
        features = model.second(hidden).mean((2, 3))
    assert torch.equal(model.head.input_quantizer.scale, features.abs().max().reshape(1) / 127)
    assert torch.equal(model.second.weight_quantizer.scale, model.second.weight.abs().max().reshape(1) / 3)
    assert all(quantizer.is_calibrated for quantizer in quantizers(model).values())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_nothing_but_quantizers_changes(training: bool) -> None:
    model = prepared().train(training)
    model.norm.eval()  # a mode of its own
    before = tensors(model)
    calibrate(model, images(2), batches=2)
    assert [module.training for module in (model, model.first, model.norm)] == [training, training, False]
    of_quantizers = tuple(quantizers(model))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith(of_quantizers) for key in changed)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_activations_take_in_every_batch_and_no_more_is_read() -> None:
    model = prepared(activation_range=RUNNING)
    read = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(images(5)):
            read.append(index)
            yield batch

    seen: list[Tensor] = []
    model.second.input_quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    calibrate(model, loader(), batches=3)
    assert read == [0, 1, 2]
    average = 0.25 * seen[0].max() + 0.25 * seen[1].max() + 0.5 * seen[2].max()
    assert model.second.input_quantizer.scale.item() == pytest.approx((average / 15).item(), rel=1e-6)


def test_weights_are_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = prepared()
    fitted: list[str] = []
    original = LSQ.set_range
    monkeypatch.setattr(LSQ, "set_range", lambda self, *ends: (fitted.append(self.label), original(self, *ends))[1])
    calibrate(model, images(3), batches=3)
    of_weights = {site.quantizer.label for site in weight_sites(model)}
    assert {name: fitted.count(name) for name in fitted} == {name: 1 if name in of_weights else 3 for name in quantizers(model)}


def test_a_shorter_loader_gives_what_it_has() -> None:
    model = prepared()
    calibrate(model, images(2), batches=10)
    assert all(quantizer.is_calibrated for quantizer in quantizers(model).values())


def test_calibrating_again_starts_afresh() -> None:
    model = prepared(activation_range=RUNNING)
    small, large = images(2)
    calibrate(model, [large])
    calibrate(model, [small])
    other = prepared(activation_range=RUNNING)
    other.load_state_dict(model.state_dict())
    calibrate(other, [small])
    assert_same(tensors(other), tensors(model))


def test_a_tied_quantizer_is_used_without_a_new_range() -> None:
    class Tied(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x)).clamp(0, 6)
            quantizer = getattr(self.second, "input_quantizer", nn.Identity())
            return self.head(self.second(x).mean((2, 3))) + quantizer(x / 100).sum()

    model = prepared(Tied(), activation_range=MINMAX)
    calibrate(model, images(1))
    plain = prepared(Net(), activation_range=MINMAX)
    plain.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    calibrate(plain, images(1))
    torch.manual_seed(0)
    calibrate(model, images(1))
    assert torch.equal(model.second.input_quantizer.scale, plain.second.input_quantizer.scale)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per_tensor", "per_channel"])
@pytest.mark.parametrize("estimator", ["mse", "current_minmax"])
def test_transposed_convolutions_count_channels_along_axis_1(estimator: str, per_channel: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 2, 3))
    prepare(
        model,
        QuantConfig.parse("W3A4", per_channel=per_channel, weight_range=RangeConfig(estimator=estimator)),
        example=torch.zeros(1, 3, 8, 8),
    )
    calibrate(model, images(1))
    weight, quantizer = model[1].weight, model[1].weight_quantizer
    ends = quantizer.range_config.build(symmetric=True, bits=3, channel_axis=1 if per_channel else None).update(weight)
    expected = (torch.maximum(-ends[0], ends[1]) / 3).reshape(quantizer.scale.shape)
    assert quantizer.scale.numel() == (6 if per_channel else 1)
    assert torch.equal(quantizer.scale, expected)


@pytest.mark.parametrize(
    ("scale_shape", "reduced"),
    [((1, 5, 3, 1), (0, 3)), ((1, 5, 1, 1), (0, 2, 3)), ((1, 1, 1, 4), (0, 1, 2)), ((1, 5, 3, 4), (0,))],
    ids=["token and head", "token", "channel", "all but the batch"],
)
@pytest.mark.parametrize("estimator", ["current_minmax", "mean_magnitude", "mse"])
def test_scales_along_neighbouring_axes(scale_shape: tuple[int, ...], reduced: tuple[int, ...], estimator: str) -> None:
    quantizer, x = LSQ(4, scale_shape), torch.randn(2, 5, 3, 4)
    quantizer.range_config = RangeConfig(estimator=estimator)
    model = nn.Sequential(nn.Unflatten(1, (5, 3)), quantizer, nn.Flatten(), nn.Linear(60, 1))
    calibrate(model, [x.reshape(2, 15, 4)])
    expected = {
        "current_minmax": x.abs().amax(reduced, keepdim=True) / 7,
        "mean_magnitude": 2 * x.abs().mean(reduced, keepdim=True) / 7**0.5,
        "mse": None,
    }[estimator]
    if expected is None:  # each slice for itself, except the span of the search, which the whole tensor has
        expected = (
            quantizer.range_config.build(symmetric=True, bits=4, channel_axis=0)
            .update(x.permute(*(axis for axis in range(4) if axis not in reduced), *reduced).reshape(quantizer.scale.numel(), -1))[1]
            .reshape(scale_shape)
            / 7
        )
    torch.testing.assert_close(quantizer.scale.detach(), expected, rtol=1e-6, atol=0)  # float32: sums in another order


@pytest.mark.parametrize("loader", [[], iter(())], ids=["list", "iterator"])
def test_an_empty_loader_is_refused(loader: Any) -> None:
    with pytest.raises(DataError, match="loader without a batch"):
        calibrate(prepared(), loader)


def test_no_batches_are_refused() -> None:
    with pytest.raises(DataError, match="asked for 0 batches; it needs at least 1"):
        calibrate(prepared(), images(1), batches=0)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_an_input_that_is_not_finite_is_refused_and_changes_nothing(value: float) -> None:
    model = prepared()
    calibrate(model, images(1))
    before = tensors(model)
    data = [(x.clone(), y) for x, y in images(3)]
    data[1][0][0, 0, 0, 0] = value
    with pytest.raises(DataError, match="calibration batch 2 is not finite: the model's input"):
        calibrate(model, data, batches=3)
    assert_same(before, tensors(model))
    assert model.training


def test_the_first_quantizer_that_meets_a_value_that_is_not_finite_is_named() -> None:
    model = prepared()
    with torch.no_grad():
        model.norm.weight[1] = math.inf
    with pytest.raises(DataError, match=r"calibration batch 1 cannot be used at quantizer second\.input_quantizer: .* not finite"):
        calibrate(model, images(1))
    assert not any(quantizer.is_calibrated for quantizer in quantizers(model).values())


def test_a_quantizer_that_no_batch_reaches_is_named() -> None:
    class Choosing(Net):
        use_head = True

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.use_head else self.second(self.norm(self.first(x)).clamp(0, 6))

    model = prepared(Choosing())
    model.use_head = False
    with pytest.raises(PrepareError, match=r"never reached head\.input_quantizer, head\.weight_quantizer"):
        calibrate(model, images(1))
    assert not any(quantizer.is_calibrated for quantizer in quantizers(model).values())


def test_a_float_model_is_refused() -> None:
    with pytest.raises(PrepareError, match="no quantizer to calibrate"):
        calibrate(Net(), images(1))
