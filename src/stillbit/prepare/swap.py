"""prepare: from a float model to one whose layers quantize, in place, keeping every key and every Parameter object."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError, nearest
from stillbit.modules.adopt import adopt, replace_module
from stillbit.prepare.attention import check_attention_known, find_attention, swap_attention, with_projections
from stillbit.prepare.coverage import Coverage, Covered, measure_coverage
from stillbit.prepare.example import as_input
from stillbit.prepare.folding import fold_activations
from stillbit.prepare.granularity import layer_input_quantizer
from stillbit.prepare.graph import Graph, is_activation, record
from stillbit.prepare.layers import is_unsupported, layer_kind, quantized_type, scale_shape
from stillbit.prepare.outputs import attach_outputs, plan_outputs
from stillbit.prepare.plan import LayerPlan, plan_layers
from stillbit.prepare.policy import FLOAT_BITS, POLICIES, QuantConfig
from stillbit.prepare.rollback import structure_restored_on_error
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import weight_sites

# Share of the largest output that may change, by the form of attention: another kernel sums in another order, and query-key
# reparameterization multiplies in another order too.
_SAME_OUTPUT = {"float": 1e-5, "plain": 1e-5, "qkr": 1e-4}
_HALF_PRECISION = 8  # of the dtype's own relative steps, where these are coarser


def prepare(model: nn.Module, config: QuantConfig | str, *, example: Any) -> Coverage:
    """Quantize a model in place: swaps its layers, adds activation quantizers, and proves by a run that each one is reached.

    Each layer keeps its name, its keys in the state dict and its Parameter objects. Quantizers have no range until `calibrate`, or
    until a trained state is loaded. If an error is raised, the model is as it was.

    Args:
        model: A float model.
        config: Bits, policy and the rest, or bits alone, such as "W4A4".
        example: An input of the model, a tuple of several, or the shape of one, e.g. (1, 3, 224, 224), which makes zeros. It runs twice
            in evaluation mode, without gradients: through the float model, and through the prepared one.

    Returns:
        What is quantized, and how.

    Raises:
        PrepareError: For a model that is prepared already or holds a layer type that cannot be quantized, a policy that quantizes
            outputs of a model outside the table of their places (points_table.py), an attention that cannot be quantized as asked,
            a quantizer that is never reached or sees two shapes, or a model whose output changes by the swap alone.
    """
    if any(isinstance(module, Quantizer) for module in model.modules()):
        raise PrepareError("the model is prepared already; prepare a float model")
    if isinstance(config, str):
        config = QuantConfig.parse(config)
    example = as_input(model, example)
    _check_overrides(model, config)
    attention = find_attention(model, config)
    layers = _quantizable_layers(model, config)
    joint = {f"{owner}.qkv" for owner in attention} if config.attention == "qkr" else set()  # quantized as products, not as layers
    layers = {name: layer for name, layer in layers.items() if name not in joint}
    graph = record(model, example)
    order, shapes = graph.order(_multiplying_layers(model)), with_projections(graph.shapes(), attention)
    check_attention_known(model, attention, graph, config)
    if not order:
        raise PrepareError(f"the example reaches none of the model's layers ({', '.join(layers)})")
    plans = plan_layers(model, layers, order, _activated(model, graph), config)
    outputs = plan_outputs(model, config, order, graph)
    in_full_precision = tuple(name for name in _multiplying_layers(model) if name not in layers and name not in joint)
    known = {*layers, *in_full_precision, *joint}
    with structure_restored_on_error(model):
        for name in attention:
            swap_attention(model, name, shapes[name], config)
        for name in layers:
            _swap(model, name, plans[name], shapes.get(name, ()), config)
        attach_outputs(model, outputs, config)
        _label(model)
        with _bypassed(model):
            if config.fold_activations:
                fold_activations(model, graph, balanced=config.recompute == "balanced")
            covered = _check_same_output(model, graph.output, example, config)
    of_weights = {site.quantizer.label for site in weight_sites(model)}
    return Coverage(
        weights=tuple(one for name, one in covered.items() if name in of_weights),
        activations=tuple(one for name, one in covered.items() if name not in of_weights),
        float_layers=in_full_precision,
        float_parameters=tuple((name, model.get_parameter(name).numel()) for name in graph.multiplied_outside(known)),
        notes=outputs.notes,
    )


def _check_overrides(model: nn.Module, config: QuantConfig) -> None:
    """Refuse an override that names no layer that multiplies, and nothing that holds one."""
    layers = list(_multiplying_layers(model))
    holders = {name.rsplit(".", depth)[0] for name in layers for depth in range(1, name.count(".") + 1)}
    known = [*layers, *sorted(holders - set(layers))]
    for override in config.overrides:
        if not any(fnmatchcase(name, override.layers) for name in known):
            raise PrepareError(f"override {override.layers!r}: the model has no such layer{nearest(override.layers, known, most=10)}")


def _activated(model: nn.Module, graph: Graph) -> set[str]:
    """Return the modules whose input, at some call, is what an activation function returned."""
    positive = graph.made_by({name for name, module in model.named_modules() if is_activation(module)})
    return {visit.module for visit in graph.visits if visit.inputs and visit.inputs[0] in positive}


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


def _swap(model: nn.Module, name: str, plan: LayerPlan, input_shape: tuple[int, ...], config: QuantConfig) -> None:
    layer = model.get_submodule(name)
    kind = quantized_type(layer)
    weight = layer.weight
    assert kind is not None
    assert isinstance(weight, Tensor)
    shape = scale_shape(weight, layer_kind(layer).output_axis, per_channel=config.per_channel)
    weight_quantizer = config.weight_quantizer(plan.weight_bits, shape)
    if plan.weight_bits <= 7:
        weight_quantizer.allocate_pins(weight.shape)
    input_quantizer = None
    if plan.input_bits != FLOAT_BITS:
        # A layer that the example never calls, whose input has no shape, is refused below.
        input_quantizer = layer_input_quantizer(layer, input_shape, plan.input_bits, config, signed=plan.signed).to(weight.device)
    quantized = adopt(kind, layer, input_quantizer=input_quantizer, weight_quantizer=weight_quantizer.to(weight.device))
    if config.published and POLICIES[config.policy].biased_as_published and layer._parameters.get("bias") is None:
        quantized.register_parameter("bias", nn.Parameter(weight.new_zeros(weight.shape[0])))
    replace_module(model, layer, quantized)


def _label(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            module.label = name


@contextmanager
def _bypassed(model: nn.Module) -> Iterator[None]:
    """Let all quantizers of a model give their inputs back; a model whose preparation fails loses them anyway."""
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    for quantizer in quantizers:
        quantizer.bypass = True
    yield
    for quantizer in quantizers:
        quantizer.bypass = False


def _first_not_finite(model: nn.Module) -> str:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            return f"{name} has {count:,} of {tensor.numel():,} elements that are NaN or infinite"
    return "its parameters and buffers are: look at the example"


def _check_same_output(model: nn.Module, float_output: Tensor, example: Any, config: QuantConfig) -> dict[str, Covered]:
    """Check that the model, its quantizers bypassed, still computes what it did; return what each quantizer saw."""
    output, covered = measure_coverage(model, example)
    if not bool(float_output.isfinite().all()):
        raise PrepareError(f"the float model's output is not finite; {_first_not_finite(model)}")
    difference = (output - float_output).abs().max()
    tolerance = max(_SAME_OUTPUT[config.attention], _HALF_PRECISION * torch.finfo(float_output.dtype).eps)
    loses_biases = config.published and config.attention == "qkr"  # by design of the published code
    if not loses_biases and not difference <= tolerance * float_output.abs().max().clamp(min=1e-3):
        raise PrepareError(f"the model's output changed by {difference:.3g} by swapping its layers, before any quantization")
    return covered
