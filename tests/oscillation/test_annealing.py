from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError, RecipeError
from stillbit.modules import QuantLinear, adopt
from stillbit.oscillation import Annealing, Dampening
from stillbit.quantizers import ProductSite, StatsQ, WeightSite, weight_sites
from stillbit.quantizers.product import query_key_products
from tests.oscillation.small_models import network, sgd, train


def statsq_network(bits: int = 2) -> nn.Sequential:
    """Two linear layers, one scale per row, whose weights are spread over their grids."""
    generator = torch.Generator().manual_seed(1)
    layers = [nn.Linear(12, 8), nn.Linear(8, 3)]
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    quantized = [
        adopt(QuantLinear, layer, weight_quantizer=StatsQ(bits, (layer.out_features, 1)), input_quantizer=nn.Identity()) for layer in layers
    ]
    return nn.Sequential(quantized[0], nn.GELU(), quantized[1])


def backward(model: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    model(torch.randn(6, 12, generator=generator)).square().sum().backward()


def state(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.002, momentum=0.9, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, 0.01], ids=["free", "clipped"])
def test_only_free_weights_move_and_the_others_rest_to_the_bit(make: Callable[..., torch.optim.Optimizer], clip: float | None) -> None:
    model = statsq_network()
    optimizer = make(model.parameters())
    annealing = Annealing(model, boundary_range=0.1, begin=3).attach(optimizer)
    free: dict[str, Tensor] = {}
    for step in range(1, 7):
        optimizer.zero_grad()
        before = {site.name: site.latent().detach().clone() for site in weight_sites(model)}
        bias = model[0].bias.detach().clone()
        free = {site.name: site.quantizer.free(site.latent()) for site in weight_sites(model)}
        backward(model, step)
        gradients = {site.name: site.parameters[0].grad for site in weight_sites(model)}
        assert all((gradients[name] != 0).equal(mask) for name, mask in free.items())
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        for site in weight_sites(model):
            assert torch.equal(site.latent() != before[site.name], free[site.name])
            assert bool(free[site.name].all()) is (step < 3)
        assert not torch.equal(model[0].bias, bias)
    assert 0 < sum(int(mask.sum()) for mask in free.values()) < 40
    assert annealing.state_dict() == {"step": 6}


def test_the_mask_is_that_of_the_weights_of_now() -> None:
    model = statsq_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    Annealing(model, boundary_range=0.2).attach(optimizer)
    masks = []
    for step in range(5):
        optimizer.zero_grad()
        masks.append(model[0].weight_quantizer.free(model[0].weight))
        backward(model, step)
        optimizer.step()
    assert any(bool((later & ~masks[0]).any()) for later in masks)  # frozen weights became free
    assert any(bool((masks[0] & ~later).any()) for later in masks)


def test_before_it_begins_training_is_what_it_was() -> None:
    models = [network(), network()]
    for model in models:
        optimizer = sgd(model)
        if model is models[1]:
            Annealing(model, boundary_range=0.01, begin=11).attach(optimizer)
        train(model, optimizer, range(10))
    assert all(torch.equal(plain, later) for plain, later in zip(*map(state, models), strict=True))
    assert models[1][0].weight_quantizer.prologue.gate is not None  # the next forward pass is that of step 11


@pytest.mark.parametrize("poison", [float("nan"), float("inf")], ids=str)
def test_a_frozen_weight_survives_an_update_that_is_not_finite(poison: float) -> None:
    model = statsq_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Annealing(model, boundary_range=0.1).attach(optimizer)
    before, free = model[0].weight.detach().clone(), model[0].weight_quantizer.free(model[0].weight)
    backward(model)
    model[0].weight.grad.fill_(poison)
    optimizer.step()
    assert torch.equal(model[0].weight[~free], before[~free])
    assert not model[0].weight[free].isfinite().any()


def test_gradients_that_others_add_move_no_frozen_weight() -> None:
    model = statsq_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Annealing(model, boundary_range=0.1).attach(optimizer)
    Dampening(model, weight=1.0).attach(optimizer)
    before, free = model[0].weight.detach().clone(), model[0].weight_quantizer.free(model[0].weight)
    backward(model)
    optimizer.step()
    assert torch.equal(model[0].weight != before, free)


def test_frozen_weights_add_nothing_to_the_moments() -> None:
    model = statsq_network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    Annealing(model, boundary_range=0.1).attach(optimizer)
    free = model[0].weight_quantizer.free(model[0].weight)
    backward(model)
    optimizer.step()
    moments = optimizer.state[model[0].weight]
    assert all(torch.equal(moments[name] != 0, free) for name in ("exp_avg", "exp_avg_sq"))


def test_layers_with_more_bits_move_freely() -> None:
    model = network()  # 3 bits, then 8
    optimizer = sgd(model)
    annealing = Annealing(model, boundary_range=0.0, max_bits=4).attach(optimizer)
    before = state(model)
    train(model, optimizer, range(3))
    assert torch.equal(model[0].weight, before[0])
    assert not torch.equal(model[3].weight, dict(zip([n for n, _ in model.named_parameters()], before, strict=True))["3.weight"])
    assert set(annealing.layer_metrics()) == {"0"}


def test_metrics_are_shares_of_what_is_free() -> None:
    model = statsq_network()
    annealing = Annealing(model, boundary_range=0.1, begin=2)
    annealing.start()
    assert annealing.metrics() == {"free": 1.0}
    annealing.load_state_dict({"step": 1})
    masks = [module.weight_quantizer.free(module.weight) for module in (model[0], model[2])]
    assert annealing.metrics() == {"free": sum(int(mask.sum()) for mask in masks) / (96 + 24)}
    assert annealing.layer_metrics()["2"] == {"free": masks[1].float().mean().item()}
    annealing.load_state_dict({"step": 0})
    assert annealing.metrics() == {"free": 1.0}


class Products(nn.Module):
    """The scores of two heads by the quantized products of query and key weights."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.qkv = nn.Parameter(torch.randn(12, 4, generator=generator))
        self.product_quantizer = StatsQ(2, (8, 1))

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        return (ProductSite(f"{name}.products", self.product_quantizer, self.qkv, 2),)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.product_quantizer(query_key_products(self.qkv, 2)).T


class TestProducts:
    def test_their_gradient_is_gated_and_their_weights_are_not_held(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), Products())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        annealing = Annealing(model, boundary_range=0.2).attach(optimizer)
        (site,) = weight_sites(model)
        products = site.latent().detach()
        free = site.quantizer.free(products)
        assert 0 < free.sum() < free.numel()
        x = torch.randn(5, 4)
        model(x).sum().backward()
        expected = model[0](x).detach().sum(0).expand(8, 4) * free  # of the products
        found = model[1].qkv.grad.clone()
        model[1].qkv.grad = None
        site.add_gradient(expected)
        torch.testing.assert_close(found, model[1].qkv.grad)  # float32: products of sums in another order
        before = model[1].qkv.detach().clone()
        optimizer.step()
        assert not torch.equal(model[1].qkv, before)
        assert set(annealing.layer_metrics()) == {"1.products"}

    def test_published_they_are_left_alone(self) -> None:
        model = nn.Sequential(*statsq_network()[:1], nn.Linear(8, 4), Products())
        annealing = Annealing(model, boundary_range=0.2, published=True)
        annealing.start()
        assert set(annealing.layer_metrics()) == {"0"}
        assert model[2].product_quantizer.prologue.gate is None
        assert model[0].weight_quantizer.prologue.gate is not None

    def test_published_a_model_of_products_alone_has_nothing_to_hold(self) -> None:
        with pytest.raises(PrepareError, match="no weight of at most 4 bits that can be held"):
            Annealing(nn.Sequential(Products()), published=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boundary_range": 0.6}, "boundary_range is 0.6; allowed: 0 to 0.5"),
        ({"begin": 0}, "begin is 0; allowed: 1 or more"),
        ({"max_bits": 9}, "max_bits is 9; allowed: 1 to 8"),
        ({"max_bits": 1}, "no weight of at most 1 bits"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises((RecipeError, PrepareError), match=message):
        Annealing(statsq_network(), **options)  # type: ignore[arg-type]
