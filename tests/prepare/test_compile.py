"""A prepared model compiles whole: fullgraph=True refuses any graph break, in ties, hooks and pins too."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from stillbit.quantizers import Quantizer, weight_sites
from tests.prepare import vits
from tests.prepare.networks import calibrated, image, small_mobilenet, small_resnet

POLICIES = ("lsq_paper", "integer", "all")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def pinned(model: nn.Module) -> nn.Module:
    """Pin the first weight of each layer that has pins to the code 1."""
    for site in weight_sites(model):
        if site.quantizer.pins is not None:
            site.quantizer.pins.view(-1)[0] = 1
    return model


def gradients(model: nn.Module, run: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    output = run(x)
    output.square().mean().backward()
    return output, {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same_training_step(model: nn.Module, backend: str) -> None:
    # In float64 no code flips by the order of a sum, so that all values agree but for rounding.
    model = pinned(model).double().train()
    twin, x = copy.deepcopy(model), image(batch=2).double()
    expected, expected_gradients = gradients(model, model, x)
    output, found = gradients(twin, torch.compile(twin, backend=backend, fullgraph=True), x)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.integration
def test_training_step_traces_without_a_break() -> None:
    assert_same_training_step(calibrated(small_mobilenet(), policy="all"), "eager")


@pytest.mark.end_to_end
def test_resnet_traces_without_a_break() -> None:
    assert_same_training_step(calibrated(small_resnet(), policy="all"), "aot_eager")


@pytest.mark.end_to_end
@pytest.mark.parametrize("policy", POLICIES)
def test_compiled_training_step(policy: str) -> None:
    assert_same_training_step(calibrated(small_mobilenet(hard_swish=True), policy=policy), "inductor")


@pytest.mark.integration
@pytest.mark.parametrize("attention", [pytest.param("plain", marks=pytest.mark.end_to_end), "qkr"])
def test_vision_transformer_traces_without_a_break(attention: str) -> None:
    assert_same_training_step(vits.calibrated(vits.vit(depth=1), attention=attention), "eager")


@pytest.mark.end_to_end
@pytest.mark.parametrize("attention", ["plain", "qkr"])
@pytest.mark.parametrize("name", ["distilled", "swin-timm", "swin-torchvision"])
def test_compiled_training_step_of_a_vision_transformer(name: str, attention: str) -> None:
    assert_same_training_step(vits.calibrated(vits.MODELS[name](), attention=attention), "inductor")


@pytest.mark.end_to_end
def test_compiled_codes_are_equal_in_float32() -> None:
    """Each quantizer alone: in a whole model the order of a convolution's sum may differ by an ulp."""
    model = calibrated(small_mobilenet(), policy="all").eval()
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            module.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0].detach()}))
    with torch.no_grad():
        model(image(batch=2))
    quantizers = {name: module for name, module in copy.deepcopy(model).named_modules() if isinstance(module, Quantizer)}

    def all_values(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: quantizers[name](x) for name, x in given.items()}

    given = dict(inputs)
    for quantizer in quantizers.values():
        quantizer._forward_pre_hooks.clear()
    with torch.no_grad():
        expected, compiled = all_values(given), torch.compile(all_values, fullgraph=True)(given)
    assert [name for name in expected if not torch.equal(expected[name], compiled[name])] == []
