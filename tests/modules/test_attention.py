"""Without quantizers, the quantized forms of attention layers compute what the originals do; biases, masks and norms included."""

from collections.abc import Callable

import pytest
import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.modules.attention import AttentionProducts, PlainProducts
from tests.modules.attentions import CHANNELS, FORMS, HEADS, TOKENS, attention, plain, randomized, shifted, tokens, with_products

EXACT = 1e-12  # float64: sums in another order, on outputs of order 10


@torch.no_grad()
def assert_same(layer: nn.Module, quantized: nn.Module, *inputs: Tensor, **settings: object) -> None:
    expected = layer(*inputs, **settings)
    torch.testing.assert_close(quantized(*inputs, **settings), expected, rtol=EXACT, atol=EXACT * float(expected.abs().max()))


MASKS: dict[str, Callable[[], dict[str, object]]] = {
    "none": dict,
    "bool": lambda: {"attn_mask": torch.eye(TOKENS, dtype=torch.bool) | (torch.rand(TOKENS, TOKENS) > 0.5)},
    "bool a sample": lambda: {"attn_mask": torch.eye(TOKENS, dtype=torch.bool) | (torch.rand(4, 1, TOKENS, TOKENS) > 0.5)},
    "float": lambda: {"attn_mask": torch.randn(TOKENS, TOKENS, dtype=torch.float64)},
    "float a head": lambda: {"attn_mask": torch.randn(HEADS, TOKENS, TOKENS, dtype=torch.float64)},
    "causal": lambda: {"is_causal": True},
    "causal, which goes before a mask": lambda: {"is_causal": True, "attn_mask": torch.zeros(TOKENS, TOKENS, dtype=torch.bool)},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fused", [False, True], ids=["original unfused", "original fused"])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_computes_what_it_did(form: str, fused: bool, mask: str) -> None:
    layer, settings = attention(), MASKS[mask]()
    layer.fused_attn = fused and len(settings) < 2  # fused attention refuses a mask next to causality
    assert_same(layer, with_products(layer, FORMS[form]()), tokens(), **settings)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "settings",
    [
        {"qkv_bias": False},
        {"attn_head_dim": 5},
        {"attn_head_dim": 5, "qkv_bias": False, "proj_bias": False},
        {"scale_norm": True, "norm_layer": nn.LayerNorm},
        {"dim_out": 7},
    ],
    ids=["no bias", "wide heads", "wide heads without biases", "norm of the heads", "other output width"],
)
def test_attention_of_other_settings(form: str, settings: dict[str, object]) -> None:
    layer = attention(**settings)
    assert_same(layer, with_products(layer, FORMS[form]()), tokens())


def test_plain_keeps_query_and_key_norms() -> None:
    layer = attention(qk_norm=True, norm_layer=nn.LayerNorm)
    assert_same(layer, with_products(layer, plain()), tokens())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", [{}, {"qkv_bias": False}, {"head_dim": 5}], ids=["bias", "no bias", "wide heads"])
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_window_attention_computes_what_it_did(form: str, settings: dict[str, object], masked: bool) -> None:
    layer = randomized(WindowAttention(CHANNELS, HEADS, window_size=(2, 3), **settings))
    mask = torch.where(torch.rand(2, TOKENS, TOKENS, dtype=torch.float64) > 0.5, 0.0, -100.0) if masked else None
    assert_same(layer, with_products(layer, FORMS[form]()), tokens(), mask)  # 2 samples of 2 windows


SHIFTS = {
    "not shifted": ((8, 8), (0, 0)),
    "shifted": ((8, 12), (2, 2)),
    "shifted by unequal steps": ((8, 8), (1, 3)),
    "padded": ((6, 7), (0, 0)),
    "shifted and padded": ((9, 6), (2, 2)),
    "one axis is one window": ((4, 8), (2, 2)),
    "one axis is padded to one window": ((8, 3), (2, 2)),
    "one window": ((4, 4), (2, 2)),
    "shifted along rows alone": ((8, 8), (2, 0)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", SHIFTS)
def test_shifted_window_attention_computes_what_it_did(form: str, case: str) -> None:
    size, shift = SHIFTS[case]
    layer = shifted(shift)
    assert_same(layer, with_products(layer, FORMS[form]()), torch.randn(2, *size, CHANNELS, dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
def test_shifted_window_attention_without_biases(form: str) -> None:
    layer = shifted((2, 2), qkv_bias=False, proj_bias=False)
    assert_same(layer, with_products(layer, FORMS[form]()), torch.randn(2, 8, 8, CHANNELS, dtype=torch.float64))


def test_the_shift_of_the_float_layer_stays() -> None:
    layer = shifted((2, 2))
    quantized = with_products(layer, plain())
    quantized(torch.randn(1, 4, 8, CHANNELS, dtype=torch.float64))
    assert quantized.shift_size == [2, 2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: attention(attn_drop=0.5, proj_drop=0.25), lambda: torch.randn(64, TOKENS, CHANNELS).double()),
        (lambda: shifted((0, 0), attention_dropout=0.5, dropout=0.25), lambda: torch.randn(16, 8, 8, CHANNELS).double()),
    ],
    ids=["timm", "torchvision"],
)
def test_dropout_is_kept(form: str, layer: Callable[[], nn.Module], x: Callable[[], Tensor]) -> None:
    """Drawn at other places, so that only the share can be compared: of the zeros in the output, 0.25 up to 5 deviations."""
    trained = with_products(layer(), FORMS[form]()).train()
    given = x()
    output = trained(given)
    assert float((output == 0).double().mean()) == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / output.numel()) ** 0.5)
    trained.proj_drop, trained.dropout = nn.Identity(), 0.0
    assert not torch.allclose(trained(given), trained(given))  # probabilities drop, too


class Recorder(nn.Module):
    """Stands for a quantizer; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x


def test_plain_quantizers_see_what_the_spec_says() -> None:
    """Queries, keys and values side by side, (B, N, A); probabilities (B, h, N, N)."""
    recorders = {name: Recorder() for name in ("query", "key", "value", "probability")}
    layer, x = attention(), tokens()
    with_products(layer, PlainProducts(**recorders))(x)
    query, key, value = layer.qkv(x).chunk(3, dim=-1)
    for name, expected in (("query", query), ("key", key), ("value", value)):
        assert torch.equal(recorders[name].seen[0], expected)
    heads = [one.view(4, TOKENS, HEADS, -1).transpose(1, 2) for one in (query, key)]
    probabilities = (heads[0] @ heads[1].mT * (CHANNELS // HEADS) ** -0.5).softmax(-1)
    torch.testing.assert_close(recorders["probability"].seen[0], probabilities, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_fused_attention_never_runs(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> Tensor:
        raise AssertionError("fused attention would skip the probabilities' quantizer")

    layers = [attention(), randomized(WindowAttention(CHANNELS, HEADS, window_size=(2, 3)))]
    monkeypatch.setattr(F, "scaled_dot_product_attention", forbidden)
    for layer in layers:
        layer.fused_attn = True
        with pytest.raises(AssertionError, match="fused attention"):
            layer(tokens())
        with_products(layer, FORMS[form]())(tokens())


@pytest.mark.parametrize("form", FORMS)
def test_probabilities_and_values_may_have_several_samples_a_mask(form: str) -> None:
    """A mask of w windows repeats over the samples: the third window of the batch gets the first mask again."""
    layer = randomized(WindowAttention(CHANNELS, HEADS, window_size=(2, 3)))
    quantized, x = with_products(layer, FORMS[form]()), tokens(2).repeat(3, 1, 1)
    mask = torch.where(torch.rand(2, TOKENS, TOKENS, dtype=torch.float64) > 0.5, 0.0, -100.0)
    output = quantized(x, mask)
    torch.testing.assert_close(output[:2], output[2:4], rtol=EXACT, atol=EXACT)
    assert isinstance(quantized.products, AttentionProducts)
