"""Query-key reparameterization: what its quantizers see, which biases it keeps, its sites; golden numbers are in tests/golden."""

import pytest
import torch
from torch import Tensor, nn

from stillbit.modules.qkr import ReparameterizedProducts, _RowProducts, key_bias
from stillbit.quantizers import LSQ, ProductSite, SliceSite, StatsQ
from stillbit.quantizers.product import query_key_products
from tests.modules.attentions import CHANNELS, HEADS, TOKENS, attention, reparameterized, shifted, tokens, with_products

EXACT = 1e-12  # float64: sums in another order


def without_query_and_key_biases(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        layer.qkv.bias[: 2 * len(layer.qkv.bias) // 3] = 0.0
    return layer


@torch.no_grad()
def test_published_drops_the_biases_of_queries_and_keys() -> None:
    layer, x = attention(), tokens()
    published, original = with_products(layer, reparameterized(published=True))(x), layer(x)
    assert float((published - original).abs().max()) > 0.1
    torch.testing.assert_close(published, without_query_and_key_biases(layer)(x), rtol=EXACT, atol=EXACT)


@torch.no_grad()
def test_the_bias_of_keys_alone_changes_nothing() -> None:
    """What it adds is constant over the keys, and softmax takes it away."""
    layer, x = attention(), tokens()
    expected = with_products(layer, reparameterized())(x)
    layer.qkv.bias[CHANNELS : 2 * CHANNELS] += 5.0
    torch.testing.assert_close(layer(x), expected, rtol=EXACT, atol=EXACT * 10)
    assert torch.equal(with_products(layer, reparameterized())(x), expected)


@torch.no_grad()
def test_key_bias_is_the_product_of_key_weight_and_query_bias() -> None:
    weight, bias = torch.randn(36, 12).double(), torch.randn(36).double()
    expected = torch.stack([weight[12 + 4 * head : 16 + 4 * head].T @ bias[4 * head : 4 * head + 4] for head in range(HEADS)])
    torch.testing.assert_close(key_bias(weight, bias, HEADS), expected, rtol=EXACT, atol=EXACT)


def gradients(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    layer(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in layer.named_parameters()}


def test_gradients_are_the_originals() -> None:
    """Input and key biases aside: gradients follow the function, whatever form it is written in."""
    layer, x = shifted((2, 2)), torch.randn(1, 8, 8, CHANNELS, dtype=torch.float64)
    expected, found = gradients(layer, x), gradients(with_products(layer, reparameterized()), x)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        atol = 1e-10 * float(gradient.abs().max())  # three products more in a row
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


class Doubling(nn.Module):
    """Stands for a quantizer: what it gives is not what it got. Keeps what it got."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.factor * x


@torch.no_grad()
def test_quantizers_see_what_the_spec_says() -> None:
    """One quantized input serves scores and values; keys are the quantized product times it, (B, N, h, C)."""
    layer, x = attention(qkv_bias=False), tokens()
    parts = {name: Doubling() for name in ("inputs", "product", "value_weight", "key", "value", "probability")}
    with_products(layer, ReparameterizedProducts(**parts))(x)
    seen = {name: part.seen[0] for name, part in parts.items()}
    weight = layer.qkv.weight
    product = query_key_products(weight, HEADS)
    keys = (2 * x) @ (2 * product).T
    assert seen["inputs"] is x
    assert torch.equal(seen["product"], product)
    assert torch.equal(seen["value_weight"], weight[2 * CHANNELS :])
    torch.testing.assert_close(seen["key"], keys.view(4, TOKENS, HEADS, CHANNELS), rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(seen["value"], (2 * x) @ (2 * weight[2 * CHANNELS :]).T, rtol=EXACT, atol=EXACT)
    scores = torch.einsum("bnc,bmhc->bhnm", 2 * x, 2 * keys.view(4, TOKENS, HEADS, CHANNELS)) * layer.scale
    torch.testing.assert_close(seen["probability"], scores.softmax(-1), rtol=1e-10, atol=1e-10)  # exponents of order 1000


@pytest.mark.parametrize("scale_shape", [(HEADS * CHANNELS, 1), (1,)], ids=["a scale a row", "one scale"])
def test_sites_are_the_products_and_the_rows_of_the_value(scale_shape: tuple[int, ...]) -> None:
    layer = attention(attn_head_dim=5)
    parts = {name: nn.Identity() for name in ("inputs", "key", "value", "probability")}
    products = ReparameterizedProducts(product=StatsQ(3, scale_shape), value_weight=LSQ(3), **parts)
    quantized = with_products(layer, products)
    product, value = quantized.weight_sites("blocks.0.attn")
    assert isinstance(product, ProductSite)
    assert isinstance(value, SliceSite)
    assert (product.name, value.name) == ("blocks.0.attn.qk", "blocks.0.attn.v")
    assert all(parameter is quantized.qkv.weight for site in (product, value) for parameter in site.parameters)
    assert product.latent().shape == (HEADS * CHANNELS, CHANNELS)
    assert value.latent().shape == (15, CHANNELS)
    assert (product.quantizer, value.quantizer) == (products.product_quantizer, products.value_weight_quantizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_in_half_precision(dtype: torch.dtype) -> None:
    layer = attention().to(dtype)
    assert with_products(layer, reparameterized())(tokens().to(dtype)).dtype == dtype


def test_products_of_rows_give_gradients_in_the_memory_order_of_their_tensors() -> None:
    x, y = (torch.randn(2, size, 4, dtype=torch.float64, requires_grad=True) for size in (3, 5))
    assert torch.equal(_RowProducts.apply(x, y), x @ y.mT)
    assert torch.autograd.gradcheck(_RowProducts.apply, (x, y))
    output = _RowProducts.apply(x, y)
    assert all(each.is_contiguous() for each in torch.autograd.grad(output, (x, y), torch.randn_like(output)))
