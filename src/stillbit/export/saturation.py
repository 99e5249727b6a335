"""Can an integer kernel overflow? The largest sums that a layer's weights and the range of its input allow.

A kernel multiplies unsigned codes of activations, 0..2^bits - 1, by signed codes of weights, and sums in 32 bits. On processors with AVX2
but no VNNI it first adds neighbours in pairs, and a pair sum saturates at 16 bits: the result is then wrong without a word. Zero points
are taken off the sum afterwards, so the codes themselves count. Products of two activations are left out: both are unsigned, their kernels
have no pairs in 16 bits, and it takes 33,000 products of 8-bit codes to fill 32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillbit.export.layers import is_product, layers_of, operation_of, source_of
from stillbit.export.manifest import Activation, Layer, Manifest
from stillbit.export.program import Program, arguments
from stillbit.export.runtime import PRECISE, Array
from stillbit.export.stored import stored_codes

INT32 = 2**31 - 1
INT16 = 2**15 - 1
# What only moves codes between their quantizer and the node that multiplies.
_MOVES = frozenset(
    (
        *("Concat", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    )
)


@dataclass(frozen=True)
class Saturation:
    """The largest sums of a layer.

    Attributes:
        layer: Name of the network's module.
        weight: Largest absolute code of the weight.
        activation: Largest code of the input.
        accumulator: Largest absolute sum of an output's products, over all inputs.
        pair: Largest absolute sum of two products of an output; which codes are neighbours is the kernel's affair, so of any two.
    """

    layer: str
    weight: int
    activation: int
    accumulator: int
    pair: int

    @property
    def accumulator_fits(self) -> bool:
        """Whether 32 bits hold every sum."""
        return self.accumulator <= INT32

    @property
    def pair_fits(self) -> bool:
        """Whether 16 bits hold every sum of two products."""
        return self.pair <= INT16

    @classmethod
    def of(cls, layer: str, rows: Array, activation: int) -> "Saturation":
        """Find the largest sums.

        Args:
            layer: Name of the layer.
            rows: Codes of the weight, one row an output.
            activation: Largest code of the input; the smallest is 0.

        >>> Saturation.of("a", np.array([[3, -4, 2], [1, 1, -8]]), 15)
        Saturation(layer='a', weight=8, activation=15, accumulator=120, pair=120)
        """
        wide = rows.astype(np.int64)
        positive, negative = np.maximum(wide, 0), np.maximum(-wide, 0)
        sums = max(int(one.sum(1).max(initial=0)) for one in (positive, negative))
        pairs = max(int(np.sort(one, 1)[:, -2:].sum(1).max(initial=0)) for one in (positive, negative))
        return cls(layer, int(np.abs(wide).max(initial=0)), activation, sums * activation, pairs * activation)


def saturation_of(program: Program) -> list[Saturation]:
    """Return the largest sums of a program's layers that multiply codes of weights by codes of activations.

    A file may multiply codes by more (twice the code plus 1 on StatsQ's grid, and a factor for a finer bias): `saturation_in` says of it.
    """
    infos, tensors, found = {info.node: info for info in layers_of(program)}, program.tensors(), []
    for node in program.module.graph.nodes:
        if not is_product(node) or infos[node.name].weight is None or infos[node.name].operands[0] is None:
            continue
        info = infos[node.name]
        (weight,) = (one for one in map(source_of, node.args[:2]) if operation_of(one) == "dequantize")
        codes = tensors[arguments(weight)["codes"].target].numpy().astype(np.int64)
        zero_point = arguments(weight)["zero_point"]
        if zero_point is not None:
            codes = codes - tensors[zero_point.target].numpy().astype(np.int64)
        if arguments(weight)["shift"]:
            codes = 2 * codes + 1
        operand = info.operands[0]
        assert operand is not None
        found.append(Saturation.of(info.layer, _rows(codes, info.kind, info.groups), operand.high - operand.low))
    return found


def saturation_in(model: Any, manifest: Manifest, where: str = "the file") -> list[Saturation]:
    """Return the largest sums of the layers of an ONNX file (`onnx_ir.Model`) that multiply codes by codes."""
    nodes = {node.name: node for node in model.graph}
    places = {place.codes: place for place in manifest.activations}
    inputs = {layer: _codes_before(nodes[layer.node].inputs[0], places) for layer in manifest.layers if layer.node in nodes}
    wanted = {layer: place for layer, place in inputs.items() if place is not None and layer.weight is not None}
    codes = stored_codes(model, [str(layer.codes) for layer in wanted], where, centred=False)
    return [
        Saturation.of(layer.name, _stored_rows(codes[str(layer.codes)], layer, nodes[layer.node]), place.high + place.offset)
        for layer, place in wanted.items()
        if place is not None
    ]


def saturation_lines(layers: Sequence[Saturation]) -> list[str]:
    """Return what can overflow, and what to do."""
    if not layers:
        return ["saturation: no layer multiplies codes by codes"]
    largest = max(layers, key=lambda one: one.accumulator)
    wide = [one for one in layers if not one.accumulator_fits]
    lines = [
        f"saturation: largest accumulator {largest.accumulator} ({largest.layer}), 32 bits hold {INT32}"
        + (f": {len(wide)} layers can overflow: {', '.join(one.layer for one in wide)}" if wide else ": none can overflow")
    ]
    paired = [one for one in layers if not one.pair_fits]
    if not paired:
        return [*lines, f"saturation: largest pair sum {max(one.pair for one in layers)}, 16 bits hold {INT16}: exact without VNNI, too"]
    lines.append(
        f"saturation: pair sums of {len(paired)} of {len(layers)} layers can leave 16 bits on processors without VNNI "
        f"({', '.join(f'{one.layer} {one.pair}' for one in paired[:4])}{', ...' if len(paired) > 4 else ''}); "
        f"exact there with the session option {'='.join(PRECISE)}, or with codes up to 64"
    )
    return lines


def _rows(codes: Array, kind: str, groups: int) -> Array:
    """Return a weight's codes, one row an output."""
    if kind.startswith("conv_transpose"):  # (inputs, outputs / groups, ...)
        parts = codes.reshape(groups, len(codes) // groups, codes.shape[1], -1)
        return parts.transpose(0, 2, 1, 3).reshape(groups * codes.shape[1], -1)
    return codes.reshape(len(codes), -1)


def _stored_rows(codes: Array, layer: Layer, node: Any) -> Array:
    if node.op_type.startswith("MatMul"):
        return codes.T
    if node.op_type == "Gemm" and not node.attributes.get_int("transB"):
        return codes.T
    return _rows(codes, layer.kind, node.attributes.get_int("group", 1))


def _codes_before(value: Any, places: dict[str, Activation]) -> Activation | None:
    """Return the activation whose codes a value holds, past all that only moves them; None: it is float."""
    while value is not None and value.name not in places:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in _MOVES else None
    return None if value is None else places[value.name]
