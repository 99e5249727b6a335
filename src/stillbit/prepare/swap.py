"""prepare: from a float model to one whose layers quantize, in place, keeping every key and every Parameter object."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.modules.adopt import adopt
from stillbit.prepare.coverage import Coverage, Covered, measure_coverage
from stillbit.prepare.layers import is_unsupported, layer_kind, quantized_type, scale_shape
from stillbit.prepare.outputs import attach_outputs, plan_outputs
from stillbit.prepare.policy import FLOAT_BITS, INTEGER_BITS, POLICIES, Policy, QuantConfig
from stillbit.prepare.rollback import structure_restored_on_error
from stillbit.prepare.trace import call_order
from stillbit.quantizers.base import Quantizer

_SAME_OUTPUT = 1e-5  # of the largest output: a swapped layer may take another kernel, which sums in another order


@dataclass(frozen=True)
class LayerPlan:
    """What one layer gets; an input of 32 bits stays in full precision."""

    weight_bits: int
    input_bits: int


def prepare(model: nn.Module, config: QuantConfig, *, example: Any) -> Coverage:
    """Quantizes a model in place: swaps its layers, adds activation quantizers, and proves by a run that each one is reached.

    Each layer keeps its name, its keys in the state dict and its Parameter objects. Quantizers have no range until `calibrate`, or
    until a trained state is loaded. If an error is raised, the model is as it was.

    Args:
        model: A float model.
        config: Bits, policy and the rest.
        example: An input of the model, e.g. zeros of shape (1, 3, 224, 224); it runs once in evaluation mode, without gradients.

    Returns:
        What is quantized, and how.

    Raises:
        PrepareError: For a model that is prepared already or holds a layer type that cannot be quantized, a policy that quantizes
            outputs of a model outside the table of their places (points_table.py), a quantizer that is never reached or sees two
            shapes, or a model whose output changes by the swap alone.
    """
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise PrepareError("the model is prepared already; prepare a float model")
    layers = _quantizable_layers(model, config)
    order, float_output = call_order(model, _multiplying_layers(model), example)
    if not order:
        raise PrepareError(f"the example reaches none of the model's layers ({', '.join(layers)})")
    plans = plan_layers(layers, order, config)
    outputs = plan_outputs(model, config, order, example)
    with structure_restored_on_error(model):
        for name in layers:
            _swap(model, name, plans[name], config)
        attach_outputs(model, outputs, config)
        _label(model)
        covered = _check_same_output(model, float_output, example)
    weight_names = {f"{name}.weight_quantizer" for name in layers}
    return Coverage(
        weights=tuple(one for name, one in covered.items() if name in weight_names),
        activations=tuple(one for name, one in covered.items() if name not in weight_names),
        float_layers=tuple(name for name in _multiplying_layers(model) if name not in layers),
        notes=outputs.notes,
    )


def plan_layers(layers: dict[str, nn.Module], order: list[str], config: QuantConfig) -> dict[str, LayerPlan]:
    """Decides the widths of each layer.

    Args:
        layers: The layers to be swapped, by name.
        order: Their names in call order, which tells the first and the last.
        config: The configuration.

    Returns:
        One plan a layer.
    """
    return {name: _plan(name, layer, order, config) for name, layer in layers.items()}


def _plan(name: str, layer: nn.Module, order: list[str], config: QuantConfig) -> LayerPlan:
    policy = POLICIES[config.policy]
    first, last = name == order[0], name == order[-1]
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
    return LayerPlan(override.weight_bits or weight_bits, input_bits)


def _input_bits(config: QuantConfig, policy: Policy, *, first: bool, last: bool) -> int:
    if config.activation_bits == FLOAT_BITS:
        return FLOAT_BITS
    if first:
        return INTEGER_BITS if policy.integer else FLOAT_BITS
    return (policy.last_input_bits if last else None) or config.activation_bits


def _quantizable_layers(model: nn.Module, config: QuantConfig) -> dict[str, nn.Module]:
    layers = {}
    for name, module in _multiplying_layers(model).items():
        if config.override(name).weight_bits == FLOAT_BITS:
            continue
        if is_unsupported(module):
            raise PrepareError(
                f"layer {name} is a {type(module).__name__}, which cannot be quantized; register a quantized form by "
                f"stillbit.register_layer, or leave it out by an override (weight_bits 32)"
            )
        layers[name] = module
    if not layers or "" in layers:
        raise PrepareError(f"the model ({type(model).__name__}) holds no layer to quantize; a single layer must stand in a Sequential")
    return layers


def _multiplying_layers(model: nn.Module) -> dict[str, nn.Module]:
    def multiplies(module: nn.Module) -> bool:
        return quantized_type(module) is not None or is_unsupported(module) or hasattr(module, "weight_sites")

    return {name: module for name, module in model.named_modules() if multiplies(module)}


def _swap(model: nn.Module, name: str, plan: LayerPlan, config: QuantConfig) -> None:
    layer = model.get_submodule(name)
    kind = quantized_type(layer)
    weight = layer.weight
    assert kind is not None
    assert isinstance(weight, Tensor)
    shape = scale_shape(weight, layer_kind(layer).output_axis, per_channel=config.per_channel)
    weight_quantizer = config.weight_quantizer(plan.weight_bits, shape).to(weight.device)
    if plan.weight_bits <= 7:
        weight_quantizer.allocate_pins(weight.shape)
    input_quantizer = None if plan.input_bits == FLOAT_BITS else config.activation_quantizer(plan.input_bits).to(weight.device)
    quantized = adopt(kind, layer, weight_quantizer=weight_quantizer, input_quantizer=input_quantizer)
    quantized.train(layer.training)
    for parent in list(model.modules()):  # a layer may have several parents
        for child, module in parent._modules.items():
            if module is layer:
                parent._modules[child] = quantized


def _label(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            module.label = name


def _check_same_output(model: nn.Module, float_output: Tensor, example: Any) -> dict[str, Covered]:
    """Checks that the model with its quantizers bypassed still computes what it did; gives what each quantizer saw."""
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    for quantizer in quantizers:
        quantizer.bypass = True
    output, covered = measure_coverage(model, example)
    difference = (output - float_output).abs().max()
    if not difference <= _SAME_OUTPUT * float_output.abs().max().clamp(min=1e-3):
        raise PrepareError(f"the model's output changed by {difference:.3g} by swapping its layers, before any quantization")
    for quantizer in quantizers:
        quantizer.bypass = False
    return covered
