"""Which attention layers prepare takes, and what it refuses: one line each, and a model that is as it was."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.errors import PrepareError
from stillbit.modules.timm_attention import QuantAttention
from stillbit.prepare import Override, QuantConfig, calibrate, prepare
from stillbit.prepare.attention import quantized_attention
from stillbit.quantizers import weight_sites
from tests.equality import assert_equal
from tests.prepare.networks import small_resnet
from tests.prepare.vits import SMALL, image, swin, torchvision_swin, vit


class HomeMade(nn.Module):
    """An attention that nobody knows."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.qkv, self.fused = nn.Linear(16, 48), fused

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if self.fused:
            return F.scaled_dot_product_attention(query, key, value)
        return torch.softmax(query @ key.mT, -1) @ value


class WithSoftmaxModule(HomeMade):
    def __init__(self) -> None:
        super().__init__(fused=False)
        self.softmax = nn.Softmax(-1)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return self.softmax(query @ key.mT) @ value


class Subclass(Attention):
    """May compute anything."""


def with_attention(layer: nn.Module) -> nn.Module:
    """Put a layer in the place of the last attention of `vit`, whose first one stays."""
    model = vit()
    model.blocks[1].attn = layer
    return model


def beit() -> nn.Module:
    return timm.create_model("beit_base_patch16_224", **(SMALL | {"depth": 1}))


def pooled() -> nn.Module:
    return vit(global_pool="map", class_token=False)


ALLOWED = "; allowed: timm's Attention and WindowAttention, torchvision's ShiftedWindowAttention, or an override (activation_bits 32) that "
ALLOWED += "leaves it in full precision"
UNKNOWN = {
    "softmax": (lambda: with_attention(HomeMade(fused=False)), "blocks.1.attn is a tests.prepare.test_attention.HomeMade"),
    "fused attention": (lambda: with_attention(HomeMade(fused=True)), "blocks.1.attn is a tests.prepare.test_attention.HomeMade"),
    "softmax module": (lambda: with_attention(WithSoftmaxModule()), "blocks.1.attn is a tests.prepare.test_attention.WithSoftmaxModule"),
    "subclass": (lambda: with_attention(Subclass(16, 2)), "blocks.1.attn is a tests.prepare.test_attention.Subclass"),
    "beit": (beit, "blocks.0.attn is a timm.models.beit.Attention"),
    "attention pool": (pooled, "attn_pool is a timm.layers.attention_pool.AttentionPoolLatent"),
    "swin v2": (
        lambda: torchvision.models.swin_transformer.SwinTransformer(
            [4, 4], 8, [2], [1], [4, 4], block=torchvision.models.swin_transformer.SwinTransformerBlockV2
        ),
        "features.1.0.attn is a torchvision.models.swin_transformer.ShiftedWindowAttentionV2",
    ),
}


def refusal(model: nn.Module, config: QuantConfig, example: Tensor | None = None) -> str:
    """Return the message of the refusal, and check that it is one line and that the model is unchanged."""
    modules, state = dict(model.named_modules()), {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PrepareError) as caught:
        prepare(model, config, example=image() if example is None else example)
    assert "\n" not in str(caught.value)
    after = dict(model.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert not [name for name, module in after.items() if module._forward_pre_hooks or module._forward_hooks]
    assert_equal(state, dict(model.state_dict()), "state")
    return str(caught.value)


@pytest.mark.parametrize("case", UNKNOWN)
@pytest.mark.parametrize("attention", ["plain", "qkr"])
def test_an_unknown_attention_is_refused_by_name_and_class(case: str, attention: str) -> None:
    build, told = UNKNOWN[case]
    said = refusal(build(), QuantConfig.for_vit("W3A3", attention=attention))
    assert said == f"{told}, an attention that cannot be quantized{ALLOWED}"


@pytest.mark.parametrize("attention", ["plain", "qkr"])
@pytest.mark.parametrize("bits", [{"activation_bits": 32}, {"weight_bits": 32}], ids=str)
def test_an_override_leaves_an_unknown_attention_in_full_precision(attention: str, bits: dict[str, int]) -> None:
    model = with_attention(HomeMade(fused=True))
    config = QuantConfig.for_vit("W3A3", attention=attention, overrides=(Override("blocks.1.attn*", **bits),))
    prepare(model, config, example=image())
    assert type(model.blocks[0].attn) is QuantAttention
    assert type(model.blocks[1].attn) is HomeMade


@pytest.mark.parametrize("attention", ["plain", "qkr"])
def test_attention_asked_of_a_network_without_is_refused(attention: str) -> None:
    said = refusal(small_resnet(), QuantConfig.for_vit("W3A3", attention=attention))
    assert said == (
        f"attention is '{attention}' and ResNet has no attention layer that can be quantized; allowed: attention 'float', or a model "
        "with timm's Attention or WindowAttention, or torchvision's ShiftedWindowAttention"
    )


@pytest.mark.parametrize("attention", ["float", "plain", "qkr"])
def test_multihead_attention_is_refused(attention: str) -> None:
    model = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5)
    said = refusal(model, QuantConfig.for_vit("W3A3", attention=attention))
    assert said.startswith("layer encoder.layers.encoder_layer_0.self_attention is a MultiheadAttention, which cannot be quantized")


def with_attribute(name: str, layer: nn.Module | None = None) -> nn.Module:
    model = vit()
    setattr(model.blocks[1].attn, name, nn.Linear(16, 16) if layer is None else layer)
    return model


NOT_EXACT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "q_norm": (lambda: vit(qk_norm=True), "blocks.0.attn has q_norm"),
    "k_norm alone": (lambda: with_attribute("k_norm", nn.LayerNorm(8)), "blocks.1.attn has k_norm"),
    "gate": (lambda: with_attribute("gate"), "blocks.1.attn has gate"),
    "rotary embedding": (lambda: with_attribute("rope"), "blocks.1.attn has rope"),
    "logit scale": (lambda: with_attribute("logit_scale"), "blocks.1.attn has logit_scale"),
}


@pytest.mark.parametrize("case", NOT_EXACT)
def test_what_makes_the_reparameterization_inexact_is_refused_by_name(case: str) -> None:
    build, told = NOT_EXACT[case]
    plain = "attention 'plain', or " if "norm" in case else ""
    assert refusal(build(), QuantConfig.for_vit("W3A3")) == (
        f"attention layer {told}, which attention 'qkr' does not keep; allowed: {plain}an override "
        "(activation_bits 32) that leaves the layer's products in full precision"
    )


@pytest.mark.parametrize("case", ["gate", "rotary embedding", "logit scale"])
def test_the_plain_form_refuses_gates_and_rotary_embeddings_too(case: str) -> None:
    build, told = NOT_EXACT[case]
    assert refusal(build(), QuantConfig.for_vit("W3A3", attention="plain")).startswith(f"attention layer {told}, which attention 'plain'")


def test_the_plain_form_keeps_query_and_key_norms() -> None:
    prepare(vit(qk_norm=True), QuantConfig.for_vit("W3A3", attention="plain"), example=image())


def test_a_lone_attention_layer_is_refused() -> None:
    said = refusal(Attention(16, 2), QuantConfig.for_vit("W3A3"), torch.randn(1, 5, 16))
    assert said == "the model is a single Attention; a single layer must stand in a Sequential"


class EndsInSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = vit()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).softmax(-1)


def test_a_softmax_of_the_model_itself_is_named() -> None:
    assert refusal(EndsInSoftmax(), QuantConfig.for_vit("W3A3")).startswith("the model itself is a ")


QKV = {"blocks.*.attn.qkv": {"blocks.0.attn", "blocks.1.attn"}, "blocks.1.*": {"blocks.1.attn"}, "blocks.1.attn": {"blocks.1.attn"}}


@pytest.mark.parametrize("pattern", QKV)
@pytest.mark.parametrize("bits", [{"activation_bits": 32}, {"weight_bits": 32}], ids=str)
def test_an_override_leaves_products_in_full_precision(pattern: str, bits: dict[str, int]) -> None:
    """Of the layer, or of its joint projection: reparameterized, the two are quantized as one."""
    model = vit()
    coverage = prepare(model, QuantConfig.for_vit("W3A3", overrides=(Override(pattern, **bits),)), example=image())
    left = {name for name, module in model.named_modules() if type(module) is Attention}
    assert left == QKV[pattern]
    joint = {f"{name}.qkv" for name in left}
    assert joint <= set(coverage.float_layers) or "activation_bits" in bits or pattern == "blocks.1.attn"


@pytest.mark.parametrize("pattern", ["blocks.0.attn", "*.qkv"])
def test_an_override_sets_the_width_of_products(pattern: str) -> None:
    model = vit()
    prepare(model, QuantConfig.for_vit("W3A3", overrides=(Override(pattern, weight_bits=8, activation_bits=4),)), example=image())
    products = model.blocks[0].attn.products
    assert products.product_quantizer.bits == products.value_weight_quantizer.bits == 8
    assert {products.input_quantizer.quantizer.bits, products.key_quantizer.quantizer.bits, products.probability_quantizer.bits} == {4}


def test_coverage_names_a_projection_in_full_precision() -> None:
    config = QuantConfig.for_vit("W3A3", overrides=(Override("*.proj", weight_bits=32),))
    assert prepare(vit(depth=1), config, example=image()).float_layers == ("patch_embed.proj", "blocks.0.attn.proj")


def test_weights_alone_can_be_quantized() -> None:
    model = vit(depth=1)
    coverage = prepare(model, QuantConfig.for_vit("W3A32"), example=image())
    assert coverage.activations == ()
    assert [one.name for one in coverage.weights if "products" in one.name] == [
        f"blocks.0.attn.products.{name}_quantizer" for name in ("value_weight", "product")
    ]


@pytest.mark.parametrize("quantizer", ["lsq", "fixed", "statsq"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["one scale", "a scale a row"])
def test_every_quantizer_serves_products(quantizer: str, per_channel: bool) -> None:
    model = vit(depth=1)
    prepare(model, QuantConfig.for_vit("W3A3", quantizer=quantizer, per_channel=per_channel), example=image())
    calibrate(model, [(image(batch=2),)])
    (products,) = (site for site in weight_sites(model) if site.name == "blocks.0.attn.qk")
    assert products.quantizer.code(products.latent()).unique().numel() > 4


@pytest.mark.parametrize("build", [vit, swin, torchvision_swin], ids=["vit", "swin-timm", "swin-torchvision"])
def test_exact_types_are_known(build: Callable[[], nn.Module]) -> None:
    known = [quantized_attention(module) for module in build().modules()]
    assert all(re.match("Quant.*Attention", kind.__name__) for kind in known if kind)
    assert any(known)
    assert quantized_attention(Subclass(16, 2)) is None
    assert quantized_attention(AttentionPoolLatent(16)) is None
