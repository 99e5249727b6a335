"""A method goes over all weights in few calls, and computes each latent once per step."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

from stillbit.numerics.fast import passes, settings
from stillbit.oscillation import Dampening, Freezing, Method, Tracking
from stillbit.quantizers import ParameterSite, ProductSite, SliceSite, StatsQ, WeightSite
from tests.oscillation.small_models import calibrated, linear

METHODS: dict[str, Callable[[nn.Module], Method]] = {
    "tracking": lambda model: Tracking(model, ema_momentum=0.2),
    "freezing": lambda model: Freezing(model, threshold=0.1, ema_momentum=0.2),
    "freezing-published": lambda model: Freezing(model, threshold=0.1, ema_momentum=0.2, published=True),
    "dampening": lambda model: Dampening(model, weight=0.1),
}


class Attention(nn.Module):
    """The weights of an attention layer under reparameterization: products of query and key, and the value's rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
        self.products, self.value = StatsQ(2, (8, 1)), calibrated(3, 0.2)

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        return (
            ProductSite(f"{name}.qk", self.products, self.weight, num_heads=2),
            SliceSite(f"{name}.v", self.value, self.weight, 8, 12),
        )


def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(1)
    layers = [linear(0.3 * torch.randn(4, 4, generator=generator), calibrated(3, 0.2)) for _ in range(3)]
    return nn.Sequential(Attention(), *layers)


def move(model: nn.Module, step: int) -> None:
    """Take a step's place: move every weight, and leave a gradient."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            with torch.no_grad():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def drive(method: Method, steps: int) -> None:
    for step in range(1, steps + 1):
        move(method.model, step)
        method.before_step(step)
        method.after_step(step)


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_each_latent_is_computed_once_a_step(make: Callable[[nn.Module], Method], monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(network())
    drive(method, 1)  # begins histories
    seen: Counter[str] = Counter()
    for kind in (ParameterSite, SliceSite, ProductSite):
        plain = kind.latent
        monkeypatch.setattr(kind, "latent", lambda site, plain=plain: seen.update([site.name]) or plain(site))
    drive(method, 1)
    assert seen == dict.fromkeys(("0.qk", "0.v", "1", "2", "3"), 1)


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_small_weights_of_a_grid_take_one_call(make: Callable[[nn.Module], Method], monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(network())
    drive(method, 1)
    calls: list[int] = []
    run = passes.run  # type: ignore[attr-defined]
    monkeypatch.setattr(
        passes, "run", lambda kernel, first, *rest, **how: calls.append(first.latent.numel()) or run(kernel, first, *rest, **how)
    )
    drive(method, 1)
    assert calls == [2 * 4 * 4, 4 * 4 + 3 * 4 * 4]  # the products' grid, and the others'


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_together_is_as_alone(make: Callable[[nn.Module], Method], monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for alone_from in (1, 1 << 40):
        monkeypatch.setattr(settings, "alone_from", alone_from)
        model = network()
        method = make(model)
        drive(method, 12)
        gradients = {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        histories = {f"{site}.{name}": one for site, state in method.state_dict().get("sites", {}).items() for name, one in state.items()}
        states.append({**model.state_dict(), **gradients, **histories})
    alone, together = states
    assert alone.keys() == together.keys()
    assert [name for name in alone if not torch.equal(alone[name], together[name])] == []


def test_a_product_is_pulled_through_its_factors() -> None:
    by_loss, by_hand = network(), network()
    Dampening(by_loss, weight=0.3).penalty().backward()
    Dampening(by_hand, weight=0.3).before_step(1)
    # one rounding apart: autograd multiplies in another order
    torch.testing.assert_close(by_hand[0].weight.grad, by_loss[0].weight.grad, rtol=1e-6, atol=1e-9)
    assert by_hand[0].weight.grad[:8].count_nonzero() > 0


@pytest.mark.parametrize("alone_from", [1, 1 << 40], ids=["each-alone", "end-to-end"])
def test_a_weight_that_two_layers_share_is_pulled_by_both(alone_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "alone_from", alone_from)
    gradients = []
    for tied in (False, True):
        model = network()
        with torch.no_grad():
            model[2].weight.copy_(model[1].weight)
        if tied:
            model[2].weight = model[1].weight
        Dampening(model, weight=0.5).before_step(1)
        gradients.append(model[1].weight.grad)
    untied, tied_gradient = gradients
    assert untied.count_nonzero() > 0
    assert torch.equal(tied_gradient, 2 * untied)
