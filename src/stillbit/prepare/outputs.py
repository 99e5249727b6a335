"""Output quantizers: what the policies ask for beyond the inputs of layers, and how it is put into a model.

A quantizer of an output is a child `output_quantizer` of the module that gives it, called by a forward hook; one of an input is the
layer's `input_quantizer`. The hooks are functions of this file, so that a model can be copied, pickled and compiled. No model is
edited and no container gets a child, which it would run.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.prepare.graph import Graph
from stillbit.prepare.layers import kernel_elements
from stillbit.prepare.points import LayerOutput, Place, Points, find_points, preceding_places
from stillbit.prepare.points_table import Join
from stillbit.prepare.policy import FLOAT_BITS, INTEGER_BITS, POLICIES, QuantConfig
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.tied import TiedQuantizer

_FOLDABLE = (nn.Identity, nn.ReLU, nn.ReLU6)  # activations that an integer runtime does by clipping codes


@dataclass(frozen=True)
class OutputPlan:
    """Which quantizers a model gets beyond those of its layers' inputs and weights.

    Attributes:
        widths: Bits of each quantizer, by its place.
        ties: Layers whose input is quantized by the quantizer of a place.
        notes: What the user should know.
    """

    widths: dict[Place, int] = field(default_factory=dict)
    ties: dict[str, Place] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def plan_outputs(model: nn.Module, config: QuantConfig, order: list[str], graph: Graph) -> OutputPlan:
    """Decide which outputs are quantized, and how wide. Changes nothing."""
    policy = POLICIES[config.policy]
    if policy.inputs and (not policy.integer or config.activation_bits == FLOAT_BITS):
        return OutputPlan()
    points = find_points(model, order)
    preceding = preceding_places(points, order, graph)
    if policy.integer:
        return _plan_integer(model, config, order, points, preceding)
    return _plan_all(model, config, order, points, preceding)


def attach_outputs(model: nn.Module, plan: OutputPlan, config: QuantConfig) -> None:
    """Put the planned quantizers into a model whose layers are swapped already."""
    device = next(model.parameters()).device
    quantizers = {place: _attach(model, place, config.activation_quantizer(bits).to(device)) for place, bits in plan.widths.items()}
    for layer, place in plan.ties.items():
        _fill_input(model.get_submodule(layer), TiedQuantizer(quantizers[place]))


def _plan_all(model: nn.Module, config: QuantConfig, order: list[str], points: Points, preceding: dict[str, Place]) -> OutputPlan:
    """Plan each layer's output, each sum and each product; average pools are quantized again by what they pooled."""
    policy = POLICIES[config.policy]
    last, before_last = order[-1], order[-2:-1]

    def width(owner: str, place: Place | None) -> int:
        """Return the width of the output of a layer or block, the owner."""
        bits = config.activation_bits
        if owner == last and not policy.logits:
            bits = FLOAT_BITS
        elif bits != FLOAT_BITS and (owner in before_last or place == preceding.get(last)):
            bits = policy.last_input_bits or bits
        return config.override(owner).activation_bits or bits

    widths = {}
    for name in order:
        output = points.layers.get(name)
        bits = width(name, output.place if output else None)
        if bits == FLOAT_BITS or config.override(name).weight_bits == FLOAT_BITS:
            continue
        if output is None:
            raise PrepareError(
                f"policy {config.policy!r} quantizes outputs, and the table of their places has no entry for "
                f"{_class_around(model, name)} (layer {name}); allowed for this model are lsq_paper and integer"
            )
        widths[output.place] = bits
    widths |= {Place(block): bits for block in points.joins if (bits := width(block, Place(block))) != FLOAT_BITS}
    return OutputPlan(widths, {layer: preceding[layer] for layer in points.pooled if preceding.get(layer) in widths})


def _plan_integer(model: nn.Module, config: QuantConfig, order: list[str], points: Points, preceding: dict[str, Place]) -> OutputPlan:
    """Plan what an integer runtime needs beyond quantized inputs: 8 bits on sums and on outputs of spatial convolutions."""
    average_pooled = {preceding[layer] for layer in points.pooled if layer in preceding}
    places = [Place(block) for block, join in points.joins.items() if join is Join.SUM]
    for name, output in points.layers.items():
        quantized = config.override(name).weight_bits != FLOAT_BITS
        if quantized and kernel_elements(model.get_submodule(name)) > 1:
            places += _integer_place(model, output, average_pooled)
    missing = sorted({_class_around(model, name) for name in order if name not in points.layers})
    note = f"policy 'integer': the table of output places has no entry for {', '.join(missing)}; sums and outputs there stay float"
    return OutputPlan(dict.fromkeys(places, INTEGER_BITS), notes=(note,) if missing else ())


def _integer_place(model: nn.Module, output: LayerOutput, average_pooled: set[Place]) -> list[Place]:
    """Return where the output of a spatial convolution is quantized, if anything but a layer reads it."""
    if output.activation is not None and type(model.get_submodule(output.activation)) not in _FOLDABLE:
        return [Place(output.activation, before=True)]
    if output.summed or output.max_pooled or output.place in average_pooled:
        return [output.place]
    return []


def _class_around(model: nn.Module, layer: str) -> str:
    """Return the class of the nearest module around a layer that is not a mere container."""
    name = layer
    while name:
        name = name.rpartition(".")[0]
        around = model.get_submodule(name)
        if type(around) not in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            break
    return type(around).__name__


def _attach(model: nn.Module, place: Place, quantizer: Quantizer) -> Quantizer:
    module = model.get_submodule(place.module)
    quantizer.train(module.training)
    if not place.before:
        module.add_module("output_quantizer", quantizer)
        module.register_forward_hook(quantize_output)
    elif hasattr(module, "input_quantizer"):
        _fill_input(module, quantizer)
    else:
        module.add_module("input_quantizer", quantizer)
        module.register_forward_pre_hook(_quantize_input)
    return quantizer


def _fill_input(layer: nn.Module, quantizer: nn.Module) -> None:
    assert isinstance(layer.input_quantizer, nn.Identity), "a layer's input has one quantizer"
    layer.input_quantizer = quantizer.train(layer.training)


def quantize_output(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Is the forward hook of a module that has an `output_quantizer`."""
    quantizer = module.output_quantizer
    assert isinstance(quantizer, Quantizer)
    quantized: Tensor = quantizer(output)
    return quantized


def _quantize_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    quantizer = module.input_quantizer
    assert isinstance(quantizer, Quantizer)
    quantized: Tensor = quantizer(inputs[0])
    return quantized
