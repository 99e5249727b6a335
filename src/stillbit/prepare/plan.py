"""Which widths each layer of one model gets: the policy, read against the order in which the layers are called."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from stillbit.prepare.layers import layer_kind
from stillbit.prepare.policy import FLOAT_BITS, POLICIES, Policy, QuantConfig


@dataclass(frozen=True)
class LayerPlan:
    """What one layer gets.

    Attributes:
        weight_bits: Width of its weight.
        input_bits: Width of its input; 32: full precision.
        signed: Whether the input's codes may be negative; None lets calibration decide.
    """

    weight_bits: int
    input_bits: int
    signed: bool | None = None


def plan_layers(
    model: nn.Module, layers: dict[str, nn.Module], order: list[str], activated: Collection[str], config: QuantConfig
) -> dict[str, LayerPlan]:
    """Decide the widths of each layer."""
    last = _classifiers(model, order)
    return {
        name: _plan(name, layer, config, first=name == order[0], last=name in last, activated=name in activated)
        for name, layer in layers.items()
    }


def _classifiers(model: nn.Module, order: list[str]) -> set[str]:
    """Return the last layer, or all of them where a model has several heads and says so, as timm's do."""
    classifier = getattr(model, "get_classifier", tuple)
    heads: Any = classifier()
    heads = heads if isinstance(heads, tuple | list) else (heads,)
    named = {name for name, module in model.named_modules() if any(module is head for head in heads)}
    return {order[-1]} | (named & set(order))


def _plan(name: str, layer: nn.Module, config: QuantConfig, *, first: bool, last: bool, activated: bool) -> LayerPlan:
    policy = POLICIES[config.policy]
    weight_bits = config.weight_bits
    if layer_kind(layer).depthwise:
        weight_bits = policy.depthwise_weight_bits or weight_bits
    if first:
        weight_bits = policy.first_weight_bits or weight_bits
    if last:
        weight_bits = policy.last_weight_bits or weight_bits
    override = config.override(name)
    input_bits = FLOAT_BITS
    if policy.inputs:
        input_bits = override.activation_bits or _input_bits(config, policy, first=first, last=last)
    signed = not activated if policy.known_signs and not first else None
    return LayerPlan(override.weight_bits or weight_bits, input_bits, signed)


def _input_bits(config: QuantConfig, policy: Policy, *, first: bool, last: bool) -> int:
    if config.activation_bits == FLOAT_BITS:
        return FLOAT_BITS
    if first:
        return policy.first_input_bits or FLOAT_BITS
    return (policy.last_input_bits if last else None) or config.activation_bits
