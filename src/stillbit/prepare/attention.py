"""Attention layers: which can be quantized, what their products get, and how they are swapped (docs/spec/vit.md, 3.3 to 4)."""

import math
import sys
from dataclasses import dataclass

from torch import nn

from stillbit.errors import PrepareError
from stillbit.modules.adopt import adopt, replace_module
from stillbit.modules.attention import AttentionProducts, PlainProducts
from stillbit.modules.qkr import ReparameterizedProducts
from stillbit.modules.shift import Shifted
from stillbit.prepare.graph import Graph
from stillbit.prepare.policy import FLOAT_BITS, Override, QuantConfig
from stillbit.quantizers.base import Quantizer

# What makes a product of query and key something else than a product of two linear maps of the input.
_BETWEEN = ("q_norm", "k_norm")
_UNKNOWN = ("gate", "rope", "logit_scale")


def quantized_attention(module: nn.Module) -> type[nn.Module] | None:
    """Return the quantized type of an attention layer, by its exact type; None for any other module."""
    origin = type(module).__module__
    ours: tuple[type[nn.Module], ...] = ()
    if origin.startswith("timm.") and "timm.models" in sys.modules:
        from stillbit.modules.timm_attention import QuantAttention, QuantWindowAttention

        ours = (QuantAttention, QuantWindowAttention)
    elif origin == "torchvision.models.swin_transformer":
        from stillbit.modules.torchvision_attention import QuantShiftedWindowAttention

        ours = (QuantShiftedWindowAttention,)
    return next((kind for kind in ours if kind.__base__ is type(module)), None)


def find_attention(model: nn.Module, config: QuantConfig) -> dict[str, nn.Module]:
    """Find the attention layers to be quantized."""
    if config.attention == "float":
        return {}
    known = {name: module for name, module in model.named_modules() if quantized_attention(module)}
    if "" in known:
        raise PrepareError(f"the model is a single {type(model).__name__}; a single layer must stand in a Sequential")
    found = {name: module for name, module in known.items() if not _left_float(name, config)}
    for name, module in found.items():
        _check_form(name, module, config.attention)
    return found


def check_attention_known(model: nn.Module, attention: dict[str, nn.Module], graph: Graph, config: QuantConfig) -> None:
    """Refuse a softmax, or a fused attention, in a module that no quantized attention covers; and a model without attention."""
    if config.attention == "float":
        return
    for name in graph.softmaxes:
        around = _with_parents(name)
        if any(part in attention or _left_float(part, config) for part in around):
            continue
        owner = next((part for part in around if not type(model.get_submodule(part)).__module__.startswith("torch.nn.")), name)
        kind = type(model.get_submodule(owner))
        raise PrepareError(
            f"{owner or 'the model itself'} is a {kind.__module__}.{kind.__name__}, an attention that cannot be quantized; allowed: "
            "timm's Attention and WindowAttention, torchvision's ShiftedWindowAttention, or an override (activation_bits 32) that "
            "leaves it in full precision"
        )
    if not any(quantized_attention(module) for module in model.modules()):
        raise PrepareError(
            f"attention is {config.attention!r} and {type(model).__name__} has no attention layer that can be quantized; "
            "allowed: attention 'float', or a model with timm's Attention or WindowAttention, or torchvision's ShiftedWindowAttention"
        )


def with_projections(shapes: dict[str, tuple[int, ...]], attention: dict[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    """Add the input shapes of the projections of attention layers: torchvision's float layers use them without calling them."""
    found = dict(shapes)
    for name, layer in attention.items():
        if name in shapes:
            layout = _Layout.of(layer, shapes[name])
            found[f"{name}.qkv"] = (1, layout.tokens, layout.channels)
            found[f"{name}.proj"] = (1, layout.tokens, layout.width)
    return found


def swap_attention(model: nn.Module, name: str, shape: tuple[int, ...], config: QuantConfig) -> None:
    """Put the quantized form of an attention layer in its place; its projections are other layers' business."""
    layer = model.get_submodule(name)
    kind = quantized_attention(layer)
    assert kind is not None
    layout = _Layout.of(layer, shape)
    override = _override(name, config)
    make = _Making(layout, config, override.activation_bits or config.activation_bits)
    products = make.reparameterized(override.weight_bits or config.weight_bits) if config.attention == "qkr" else make.plain()
    quantized = adopt(kind, layer, products=products.to(layout.qkv.weight.device))
    replace_module(model, layer, quantized)


@dataclass(frozen=True)
class _Layout:
    """Sizes of an attention layer: tokens N, heads h, input channels C, width of all heads A."""

    qkv: nn.Linear
    tokens: int
    heads: int
    channels: int
    width: int

    @classmethod
    def of(cls, layer: nn.Module, shape: tuple[int, ...]) -> "_Layout":
        qkv, window = layer.qkv, getattr(layer, "window_size", None)
        assert isinstance(qkv, nn.Linear)
        assert isinstance(layer.num_heads, int)
        tokens = shape[1] if len(shape) == 3 else math.prod(window)  # type: ignore[arg-type]  # maps are cut into windows
        return cls(qkv, tokens, layer.num_heads, qkv.in_features, qkv.out_features // 3)


class _Making:
    """Makes the quantizers of one attention layer."""

    def __init__(self, layout: _Layout, config: QuantConfig, bits: int) -> None:
        self._layout, self._config, self._bits = layout, config, bits
        self._by_token = config.activation_scales == "token"

    def plain(self) -> AttentionProducts:
        """Make those of the plain form."""
        width, token = (self._layout.width,), self._token_scale()
        return PlainProducts(
            query=self._activation(token, before=self._repeated_bias(), after=width),
            key=self._activation(token, before=self._repeated_bias(), after=None),
            value=self._value(),
            probability=self._probability(),
        )

    def reparameterized(self, weight_bits: int) -> AttentionProducts:
        """Make those of query-key reparameterization."""
        layout, of_heads = self._layout, (self._layout.heads, self._layout.channels)
        channels = (layout.channels,)
        return ReparameterizedProducts(
            inputs=self._activation(self._token_scale(), before=channels, after=channels),
            product=self._weight(weight_bits, (math.prod(of_heads), layout.channels)),
            value_weight=self._weight(weight_bits, (layout.width, layout.channels)),
            key=self._activation((1, layout.tokens if self._by_token else 1, layout.heads, 1), before=of_heads, after=None),
            value=self._value(),
            probability=self._probability(),
            published=self._config.published,
        )

    def _value(self) -> nn.Module:
        width = self._layout.width
        return self._activation((1, 1, width), before=self._repeated_bias(), after=(width,))

    def _probability(self) -> nn.Module:
        shape = (1, 1, self._layout.tokens, 1) if self._by_token else (1,)
        return nn.Identity() if self._bits == FLOAT_BITS else self._config.activation_quantizer(self._bits, shape, signed=False)

    def _repeated_bias(self) -> tuple[int, ...] | None:
        """Return the shape of a bias that repeats the projection's own: published, and needed where the projection has none."""
        return (self._layout.width,) if self._config.published or self._layout.qkv.bias is None else None

    def _token_scale(self) -> tuple[int, ...]:
        return (1, self._layout.tokens, 1) if self._by_token else (1,)

    def _activation(self, scale: tuple[int, ...], *, before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> nn.Module:
        if self._bits == FLOAT_BITS:
            return nn.Identity()
        quantizer = self._config.activation_quantizer(self._bits, scale, signed=True)
        return Shifted(quantizer, before, after) if self._config.learned_shifts else quantizer

    def _weight(self, bits: int, shape: tuple[int, int]) -> Quantizer:
        quantizer = self._config.weight_quantizer(bits, (shape[0], 1) if self._config.per_channel else (1,))
        if bits <= 7:
            quantizer.allocate_pins(shape)  # type: ignore[arg-type]  # a tuple serves as a size
        return quantizer


def _check_form(name: str, layer: nn.Module, form: str) -> None:
    """Refuse what the form asked for would not compute exactly."""
    refused = _UNKNOWN + (_BETWEEN if form == "qkr" else ())
    present = [attribute for attribute in refused if not isinstance(getattr(layer, attribute, None), nn.Identity | None)]
    if present:
        allowed = "attention 'plain', or " if present[0] in _BETWEEN else ""
        raise PrepareError(
            f"attention layer {name} has {present[0]}, which attention {form!r} does not keep; allowed: {allowed}an override "
            "(activation_bits 32) that leaves the layer's products in full precision"
        )


def _left_float(name: str, config: QuantConfig) -> bool:
    override = _override(name, config)
    return FLOAT_BITS in (override.weight_bits, override.activation_bits)


def _override(name: str, config: QuantConfig) -> Override:
    """Return the exception for an attention layer; under "qkr" that for its joint projection, which is quantized there, comes first."""
    own = config.override(name)
    joint = config.override(f"{name}.qkv") if config.attention == "qkr" else own
    return Override(name, joint.weight_bits or own.weight_bits, joint.activation_bits or own.activation_bits)


def _with_parents(name: str) -> list[str]:
    """Return a module's name and those of the modules around it, innermost first; not the model itself."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
