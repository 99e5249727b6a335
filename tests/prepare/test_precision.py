import copy

import pytest
import torch
from torch import Tensor, nn

from stillbit.quantizers import Quantizer, weight_sites
from tests.prepare.networks import calibrated, image, small_mobilenet, small_resnet

POLICIES = ("lsq_paper", "integer", "all")


def weight_codes(model: nn.Module) -> list[Tensor]:
    return [site.quantizer.code(site.latent()) for site in weight_sites(model)]


def train_step(model: nn.Module, x: Tensor) -> None:
    model.train()
    model(x).square().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad


def seen_by_weight_quantizers(model: nn.Module, x: Tensor, *, autocast: bool) -> list[Tensor]:
    """The values of the weights as the layers use them in a forward pass."""
    values = []
    for site in weight_sites(model):
        site.quantizer.register_forward_hook(lambda _, __, value: values.append(value))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(x)
    return values


@pytest.mark.parametrize("policy", POLICIES)
def test_autocast_keeps_weight_codes(policy: str) -> None:
    model = calibrated(small_mobilenet(), policy=policy)
    plain = seen_by_weight_quantizers(copy.deepcopy(model), image(batch=2), autocast=False)
    mixed = seen_by_weight_quantizers(copy.deepcopy(model), image(batch=2), autocast=True)
    assert len(plain) == 8
    assert all(value.dtype == torch.float32 for value in mixed)
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


@pytest.mark.integration
def test_autocast_trains() -> None:
    model = calibrated(small_resnet(), policy="all")
    with torch.autocast("cpu", torch.bfloat16):
        train_step(model, image(batch=2))
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("policy", POLICIES)
def test_channels_last_gives_the_same_model(policy: str) -> None:
    model = calibrated(small_resnet(), policy=policy).double().eval()
    twin, x = copy.deepcopy(model).to(memory_format=torch.channels_last), image(batch=3).double()
    output = model(x)
    # Convolutions sum in another order; in float64 no code flips.
    torch.testing.assert_close(twin(x.to(memory_format=torch.channels_last)), output, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(a, b) for a, b in zip(weight_codes(model), weight_codes(twin), strict=True))


def test_channels_last_memory_passes_through_quantizers() -> None:
    model = calibrated(small_resnet(), policy="all").to(memory_format=torch.channels_last)
    formats = []
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.register_forward_hook(lambda _, inputs, value: formats.append((inputs[0], value)))
    model(image(batch=2).to(memory_format=torch.channels_last))
    images = [(x, value) for x, value in formats if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)]
    assert len(images) > 20
    assert all(value.is_contiguous(memory_format=torch.channels_last) for _, value in images)


@pytest.mark.parametrize("policy", POLICIES)
def test_float64_model_computes_in_float64(policy: str) -> None:
    model = calibrated(small_mobilenet().double(), policy=policy)
    outputs = []
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.register_forward_hook(lambda _, __, value: outputs.append(value.detach()))
    output = model(image(batch=2).double())
    output.sum().backward()
    assert {value.dtype for value in outputs} == {torch.float64}
    # A code times a float32 scale mostly has more digits than float32 holds.
    assert sum(torch.equal(value, value.float().double()) for value in outputs) < len(outputs) / 2
    assert output.dtype == torch.float64


@pytest.mark.parametrize("build", [small_mobilenet, small_resnet])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_of_training_reaches_every_parameter(build: object, policy: str) -> None:
    """Also where a model adds in place to what a quantizer gave, as timm's ResNet does."""
    model = calibrated(build(), policy=policy)
    train_step(model, image(batch=4))
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
