"""Activation functions that become part of the quantizers behind them: the same numbers, and only where nobody else looks."""

import copy
import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillbit.errors import PrepareError
from stillbit.modules.folded import FoldedReLU, FoldedReLU6
from stillbit.numerics.fast import settings
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.quantizers import Quantizer
from tests.prepare.networks import MINMAX, calibrated, image, prepared, small_mobilenet, small_resnet, whole


def folded_in(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, FoldedReLU | FoldedReLU6)]


class Layers(nn.Module):
    """Two convolutions with something between, by the forward that a test gives."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.activation = activation or nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.third = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.activation(self.first(x))))


class OneReaderIsASum(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first(x))
        return self.third(self.second(x) + x)


class DropoutBetween(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.dropout(self.activation(self.first(x)))))


class OutputIsGiven(Layers):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x = self.activation(self.first(x))
        return x, self.third(self.second(x))


class UsedTwice(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first(x))
        return self.activation(self.third(self.second(x)))


class TwoReaders(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first(x))
        return self.second(x) * self.third(x)


class OverwrittenInput(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.third(self.second(self.activation(x)) + x)


class QuantizerReadsMore(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.third(self.second(self.activation(x)) + self.second(x))


def test_activations_between_layers_are_folded() -> None:
    # Not bn1.act: the shortcut of the first block reads it too; not bn2.act: a pool does.
    assert folded_in(calibrated(small_mobilenet())) == ["blocks.0.0.bn1.act", "blocks.1.0.bn1.act", "blocks.1.0.bn2.act"]
    # Shortcuts with a layer of their own read an activation through its quantizer; not so layer4's, which a pool reads.
    last_of_blocks = [name for name in folded_in(calibrated(small_resnet())) if name.endswith("act2")]
    assert last_of_blocks == ["layer1.0.act2", "layer2.0.act2", "layer3.0.act2"]


def test_two_quantizers_may_read_one_activation() -> None:
    model = calibrated(TwoReaders())
    assert folded_in(model) == ["activation"]
    assert model.second.input_quantizer.prologue.clip == model.third.input_quantizer.prologue.clip == (0.0, math.inf)
    assert model.first.weight_quantizer.prologue.clip is None


@pytest.mark.parametrize("kind", [OneReaderIsASum, DropoutBetween, OutputIsGiven, UsedTwice, QuantizerReadsMore])
def test_an_activation_with_another_reader_is_left_alone(kind: type[Layers]) -> None:
    assert folded_in(calibrated(kind())) == []


def test_a_tensor_that_an_activation_overwrites_is_its_output() -> None:
    assert folded_in(calibrated(OverwrittenInput(nn.ReLU(inplace=True)))) == []
    assert folded_in(calibrated(OverwrittenInput(nn.ReLU()))) == ["activation"]


def test_an_activation_whose_own_output_is_quantized_is_folded() -> None:
    model, _ = prepared(whole("mobilenetv2-torchvision"), policy="all")
    activation = model.get_submodule("features.0.2")
    assert isinstance(activation, FoldedReLU6)
    assert activation.output_quantizer.prologue.clip == (0.0, 6.0)


class Own(nn.ReLU):
    pass


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Hardtanh(), Own()])
def test_other_activations_are_left_alone(activation: nn.Module) -> None:
    model = calibrated(Layers(activation))
    assert model.activation is activation
    assert model.second.input_quantizer.prologue.clip is None


def test_an_activation_that_a_hook_watches_is_left_alone() -> None:
    model = Layers()
    model.activation.register_forward_hook(lambda *_: None)
    assert folded_in(calibrated(model)) == []


def test_learned_shifts_stand_between_and_keep_an_activation() -> None:
    model = Layers()
    prepare(model, QuantConfig.parse("W4A4", policy="vit", learned_shifts=True), example=image())
    assert folded_in(model) == []


def test_switched_off_nothing_is_folded() -> None:
    assert folded_in(calibrated(small_mobilenet(), fold_activations=False)) == []


def test_a_folded_activation_keeps_its_class_its_hooks_and_the_models_keys() -> None:
    torch.manual_seed(0)
    model = small_mobilenet()
    seen: list[Any] = []
    model.bn1.act.register_forward_pre_hook(lambda module, _: seen.append(module))
    plain = calibrated(copy.deepcopy(model), fold_activations=False)
    calibrated(model)
    assert isinstance(model.bn1.act, nn.ReLU6)
    assert model.bn1.act in seen
    assert model.state_dict().keys() == plain.state_dict().keys()


def trained(model: nn.Module, **settings: Any) -> tuple[list[float], nn.Module]:
    """Three steps; gives the losses and the model."""
    torch.manual_seed(0)
    calibrated(model, **settings)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(image(batch=4)), torch.arange(4))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, model


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("policy", ["lsq_paper", "all"])
@pytest.mark.parametrize("network", [small_mobilenet, small_resnet])
def test_losses_weights_and_statistics_are_the_same_to_the_bit(network: Any, policy: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    model = network().to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    losses, folded = trained(copy.deepcopy(model), policy=policy)
    expected, plain = trained(model, policy=policy, fold_activations=False)
    assert folded_in(folded) != []
    assert losses == expected
    for name, tensor in plain.state_dict().items():
        assert torch.equal(folded.state_dict()[name], tensor), name


def test_evaluation_codes_and_positions_are_those_of_the_activations_output() -> None:
    torch.manual_seed(0)
    model = calibrated(Layers(nn.ReLU6()))
    quantizer = model.second.input_quantizer
    assert isinstance(quantizer, Quantizer)
    x = torch.tensor([-3.0, 0.0, 0.4, 5.9, 6.0, 60.0])
    clipped = x.clamp(0, 6)
    assert torch.equal(quantizer.code(x), quantizer.code(clipped))
    assert torch.equal(quantizer.position(x), quantizer.position(clipped))
    assert torch.equal(quantizer(x), quantizer(clipped))
    quantizer.bypass = True
    assert torch.equal(quantizer(x), clipped)


def test_ranges_are_those_of_the_activations_output() -> None:
    model = Layers()
    prepare(model, QuantConfig.parse("W4A4", activation_range=MINMAX), example=image())
    calibrate(model, [(image(batch=2),)])
    assert not model.second.input_quantizer.is_signed


def test_a_model_that_is_refused_gets_its_activations_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PrepareError("no")

    model = Layers()
    activation = model.activation
    monkeypatch.setattr(importlib.import_module("stillbit.prepare.swap"), "_check_same_output", refuse)
    with pytest.raises(PrepareError, match="no"):
        prepare(model, QuantConfig.parse("W4A4"), example=image())
    assert model.activation is activation


def saved_elements(model: nn.Module) -> int:
    """Count what a forward pass saves, parameters apart, each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(image(batch=4))
    del output
    return sum(seen.values())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_as_much_is_saved_as_by_the_float_model_or_less_or_more(activation: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "recompute_from", 1000)  # activations, not weights
    element = 4 * 3 * 32 * 32
    saved = {
        recompute: saved_elements(calibrated(Layers(activation()), recompute=recompute).train())
        for recompute in ("balanced", "always", "never")
    }
    by_float = saved_elements(Layers(activation()))
    assert saved["balanced"] == pytest.approx(by_float, rel=0.02)
    assert saved["always"] == pytest.approx(by_float - (element if activation is nn.ReLU6 else 0), rel=0.02)
    assert saved["never"] > saved["balanced"] + 0.9 * element
