"""Values that are computed again for backward: not saved, and the same to the bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stillbit.modules.shift import Shifted
from stillbit.numerics.fast import settings, values_recomputed
from stillbit.numerics.rounding import Stochastic
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.quantizers import LSQ, Quantizer, StatsQ


@pytest.fixture(autouse=True)
def _small_tensors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "recompute_from", 1)


def ready(bits: int = 3, shape: tuple[int, ...] = (1,), **settings: Any) -> LSQ:
    quantizer = LSQ(bits, shape, **settings)
    quantizer.set_range(torch.full((quantizer.scale.numel(),), -1.0), torch.full((quantizer.scale.numel(),), 1.0))
    return quantizer


@contextmanager
def saved_storages() -> Iterator[set[int]]:
    """Note the storages that operations save as they are; what a context within packs otherwise does not come here."""
    seen: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        seen.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield seen


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return nn.functional.linear(x, weight)


def product(x: Tensor, weight: Tensor) -> Tensor:
    return x.view(2, 2, 6) @ weight.mT


OPERATIONS = [pytest.param(linear, id="linear"), pytest.param(product, id="view")]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ready(), id="lsq"),
        pytest.param(lambda: ready(3, (1, 6)), id="channels"),
        pytest.param(lambda: StatsQ(2, (4, 1)), id="statsq"),
        pytest.param(lambda: Shifted(ready(), (6,), (6,)), id="shifted"),
    ],
)
def test_nothing_is_saved_and_gradients_are_equal(make: Callable[[], nn.Module], operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    latent, weight = torch.randn(4, 6, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    module, weight_quantizer = make(), ready(2)
    if isinstance(module, Shifted):
        nn.init.normal_(module.before)
        nn.init.normal_(module.after)
    leaves = [latent, weight, *module.parameters(), *weight_quantizer.parameters()]

    def run(*, recompute: bool) -> tuple[list[Tensor], bool]:
        with saved_storages() as seen:
            x, w = module(latent), weight_quantizer(weight)
            addresses = {x.untyped_storage().data_ptr(), w.untyped_storage().data_ptr()}
            with values_recomputed(*((x, w) if recompute else ())):
                output = operation(x, w)
        gradients = torch.autograd.grad(output.square().sum(), leaves)
        return [output, *gradients], bool(seen & addresses)

    kept, kept_values = run(recompute=False)
    computed, saved_values = run(recompute=True)
    assert kept_values
    assert not saved_values
    assert all(torch.equal(one, other) for one, other in zip(kept, computed, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ready(rounding=Stochastic()), id="random"),
        pytest.param(lambda: _keeping(ready()), id="switched_off"),
    ],
)
def test_some_values_are_saved_as_they_are(make: Callable[[], Quantizer]) -> None:
    latent, weight = torch.randn(4, 6, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    with saved_storages() as seen:
        x = make()(latent)
        with values_recomputed(x):
            linear(x, weight)
    assert x.untyped_storage().data_ptr() in seen


def _keeping(quantizer: LSQ) -> LSQ:
    quantizer.recompute = False
    return quantizer


@pytest.mark.parametrize(
    "around",
    [
        pytest.param(lambda run, x: checkpoint(run, x, use_reentrant=False), id="checkpoint"),
        pytest.param(lambda run, x: checkpoint(run, x, use_reentrant=True), id="reentrant"),
        pytest.param(lambda run, x: _saved_on_cpu(run, x), id="save_on_cpu"),
    ],
)
def test_activation_checkpointing_and_saving_elsewhere_go_on_around_it(around: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("deit_tiny_patch16_224", **size)
    images = torch.randn(2, 3, 16, 16)
    prepare(model, QuantConfig.for_vit("W3A3"), example=images)
    calibrate(model, [(images,)])
    leaf = images.clone().requires_grad_()
    plain = torch.autograd.grad(model(leaf).square().sum(), [leaf])
    model(leaf).square().sum().backward()
    wanted = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    leaf.grad = None
    around(model, leaf).square().sum().backward()
    assert torch.equal(leaf.grad, plain[0])
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(model.parameters(), wanted, strict=True))


def test_hooks_around_it_see_what_is_saved_as_it_is() -> None:
    latent, weight = torch.randn(4, 6, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    x = ready()(latent)
    with saved_storages() as seen, values_recomputed(x):
        linear(x, weight)
    assert weight.untyped_storage().data_ptr() in seen
    assert x.untyped_storage().data_ptr() not in seen


def _saved_on_cpu(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return run(x)


def test_a_graph_can_be_walked_twice() -> None:
    latent, weight = torch.randn(4, 6, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    x = ready()(latent)
    with values_recomputed(x):
        output = linear(x, weight).square().sum()
    first = torch.autograd.grad(output, (latent, weight), retain_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(first, torch.autograd.grad(output, (latent, weight)), strict=True))


def test_values_are_those_of_the_forward_pass_whatever_the_scale_became() -> None:
    quantizer, weight = ready(), torch.randn(5, 6, requires_grad=True)
    x = quantizer(torch.randn(4, 6, requires_grad=True))
    with values_recomputed(x):
        output = linear(x, weight).sum()
    with torch.no_grad():
        quantizer.scale.mul_(2.0)
    assert torch.equal(torch.autograd.grad(output, weight)[0], x.detach().sum(0).expand(5, 6))


@pytest.mark.parametrize("changed", ["latent", "shift"])
def test_a_tensor_changed_before_backward_is_an_error(changed: str) -> None:
    latent, weight = torch.randn(4, 6, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    shifted = Shifted(ready(), None, (6,))
    x = shifted(latent)
    with values_recomputed(x):
        output = linear(x, weight).sum()
    with torch.no_grad():
        (latent if changed == "latent" else shifted.after).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


@pytest.mark.parametrize(("recompute", "computed_again"), [("balanced", True), ("always", True), ("never", False)])
def test_a_configuration_decides_for_every_quantizer(recompute: str, computed_again: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    images = torch.randn(2, 3, 8, 8)
    prepare(model, QuantConfig.parse("W3A3", recompute=recompute), example=images)
    calibrate(model, [(images,)])
    assert all(module.recompute == computed_again for module in model.modules() if isinstance(module, Quantizer))
    values: list[int] = []
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.register_forward_hook(lambda _, __, output: values.append(output.untyped_storage().data_ptr()))
    with saved_storages() as seen:
        output = model(images)
    assert len(values) == 5
    assert bool(seen & set(values)) != computed_again
    output.sum().backward()


def test_small_values_are_saved_for_they_cost_less_than_a_recomputation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "recompute_from", 24)
    quantizer = ready()
    for size, is_saved in ((23, True), (24, False)):
        values = quantizer(torch.randn(1, size, requires_grad=True))
        with saved_storages() as saved, values_recomputed(values):
            linear(values, torch.randn(2, size, requires_grad=True))
        assert (values.untyped_storage().data_ptr() in saved) == is_saved


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("within", [True, False], ids=["recomputed", "saved"])
def test_what_gelu_gives_is_computed_again(approximate: str, within: bool) -> None:
    """GELU saves its input anyway."""

    def gradients(gelu: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        leaf, weight, quantizer = torch.linspace(-2, 2, 24).view(4, 6).requires_grad_(), torch.ones(5, 6, requires_grad=True), ready()
        with saved_storages() as seen:
            latent = gelu(leaf)
            x = quantizer(latent)
            with values_recomputed(x) if within else nullcontext():
                output = linear(x, weight)
        assert (latent.untyped_storage().data_ptr() in seen) == (gelu is not plain)
        return torch.autograd.grad(output.square().sum(), (leaf, weight, quantizer.scale))

    def plain(x: Tensor) -> Tensor:
        return nn.functional.gelu(x, approximate=approximate)

    again, saved = gradients(plain), gradients(lambda x: plain(x) * 1.0)
    assert all(torch.equal(one, other) for one, other in zip(again, saved, strict=True))


def test_derived_latents_are_not_saved_besides_their_values() -> None:
    quantizer, latent = StatsQ(2, (4, 1)), torch.randn(4, 6, requires_grad=True)
    quantizer.recompute = False
    derived, weight = latent * 1.0, torch.randn(5, 6, requires_grad=True)
    with saved_storages() as seen:
        x = quantizer(derived)
        linear(weight, x)
    assert derived.untyped_storage().data_ptr() not in seen
    assert x.untyped_storage().data_ptr() in seen
