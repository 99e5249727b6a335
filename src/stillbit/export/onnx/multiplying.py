"""What products have in common: weights and biases in the graph, for kernels of integers and of floats."""

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import numpy_helper
from torch import fx

from stillbit.errors import ExportError
from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.lowering import Lowering, grid_of
from stillbit.export.onnx.tails import Tail
from stillbit.export.onnx.value import CodeGrid, Value, as_float, as_unfused_float, dequantize
from stillbit.export.onnx.weights import Accumulation, StoredWeight, Weight, arrange, store_weight

FLOAT = 1  # ONNX's number of float32
_LARGEST_FINE = 127
_MULTIPLIES_BYTES_FROM = (1, 23)  # ONNX Runtime; its BitShift, which older ones know, is six times as slow


def gemm(lowering: Lowering, node: fx.Node, codes: str, source: Value, stored: StoredWeight) -> str:
    """Add a Gemm of rows of codes, (any, width), with a weight that has outputs along axis 0 of two, bias included."""
    where = lowering.where(node)
    assert source.grid is not None
    one = (1, 1)
    flat = CodeGrid(source.grid.scale.reshape(one), source.grid.offset.reshape(one), source.grid.low, source.grid.high)
    inputs = [dequantize(lowering.builder, codes, flat, where), *weight_and_bias(lowering, source, stored, where)]
    name = lowering.builder.add("Gemm", inputs, f"{where}/gemm", named=True, transB=1)
    lowering.record_layer(node, name, stored)
    return name


def floats_of(lowering: Lowering, source: Value, where: str) -> str:
    """Return the name of an input's values for a product in floats."""
    return as_float(lowering.builder, source, where) if source.grid is None else as_unfused_float(lowering.builder, source, where)


def reshaped(lowering: Lowering, name: str, shape: Any, where: str) -> str:
    """Add a Reshape; a size of None or -1 follows from the others."""
    sizes = np.array([-1 if size is None else size for size in shape], np.int64)
    return lowering.builder.add("Reshape", [name, lowering.builder.constant(sizes, "shape")], f"{where}/shape")


def float_weight(
    lowering: Lowering, node: Any, quantized: Weight | None, factor: Array | None, where: str
) -> tuple[str, StoredWeight | None]:
    """Store a weight for a product in floats: small if it has codes, which become floats once, when the file is loaded."""
    if quantized is None:
        array = lowering.array(node)
        scaled = array if factor is None else array * factor.reshape(-1, *(1,) * (array.ndim - 1))
        return lowering.builder.constant(scaled.astype(np.float32), str(node.target)), None
    arranged = arrange(quantized)
    if arranged is None:
        raise ExportError(
            f"quantizer {quantized.label}: no int8 tensor holds its codes ({quantized.bits} bits, no zero); allowed: up to 7 bits"
        )
    stored = store_weight(lowering.builder, quantized, lowering.container, arranged)
    # Not DequantizeLinear, which would run at each call, or fuse: to a MatMulNBits that rounds the input to 8 bits, to an integer kernel.
    builder, axes = lowering.builder, (-1, *(1,) * (quantized.codes.ndim - 1))
    name = builder.add("Cast", [stored.name], f"{where}/float", to=FLOAT)
    if stored.offset.any():
        name = builder.add("Sub", [name, builder.constant(stored.offset.astype(np.float32).reshape(axes), "zero_point")], f"{where}/centre")
    return builder.add("Mul", [name, builder.constant(stored.scale.reshape(axes), "scale")], f"{where}/weight"), stored


def shift_into_bias(
    lowering: Lowering, source: Value, weight: Weight, bias: Array | None, groups: int, pads: tuple[int, ...], where: str
) -> tuple[Value, Array | None]:
    """Make a learned shift of the input part of the bias, where it is one number per channel and no padding stands next to it."""
    assert source.grid is not None
    shift = source.grid.shift
    assert shift is not None
    convolution = weight.codes.ndim == 4
    axis = 1 if convolution else shift.ndim - 1
    if any(pads) or any(size != 1 for place, size in enumerate(shift.shape) if place != axis):
        floats = as_float(lowering.builder, source, where)
        return Value(floats, source.shape), bias
    values = weight.values()
    values = values.reshape(*values.shape[:2], -1).sum(-1) if convolution else values
    inputs = values.shape[1] * groups
    by_channel = np.broadcast_to(shift.reshape(-1), (inputs,)).astype(np.float64).reshape(groups, -1)
    added = np.einsum("goi,gi->go", values.reshape(groups, -1, values.shape[1]), by_channel).reshape(-1)
    return replace(source, grid=replace(source.grid, shift=None)), added if bias is None else bias + added


def total_bias(lowering: Lowering, bias: Any, tail: Tail) -> Array | None:
    own = None if bias is None else lowering.array(bias).astype(np.float64)
    if own is not None and tail.factor is not None:
        own = own * tail.factor
    if own is None or tail.bias is None:
        return tail.bias if own is None else own
    total: Array = own + tail.bias
    return total


def stored_with_bias(
    lowering: Lowering, source: Value, weight: Weight, bias: Array | None, tail: Tail
) -> tuple[Value, StoredWeight | None]:
    """Store a weight for a kernel that adds a bias in units of its accumulator.

    Where no such bias gives the exact codes, as for 8-bit codes of few narrow ones, the input's codes are multiplied by a power of two, for
    one more pass over them.

    Returns:
        The input that the kernel takes, and the weight; None where no kernel takes it, or where codes have to be exact and are not.
    """
    arranged = arrange(weight, _accumulation(lowering, source, bias, tail))
    if arranged is not None and not arranged.exact and (times := _times_finer(source)) > 1:
        finer = _finer(lowering, source, times)
        again = arrange(weight, _accumulation(lowering, finer, bias, tail, times))
        if again is None or again.exact or not lowering.exact:
            source, arranged = finer, again
    if arranged is not None and not arranged.exact:
        lowering.inexact.append(weight.label)
    if arranged is None or not arranged.one_offset or (lowering.exact and not arranged.exact):
        return source, None
    return source, store_weight(lowering.builder, weight, lowering.container, arranged)


def _accumulation(lowering: Lowering, source: Value, bias: Array | None, tail: Tail, times: int = 1) -> Accumulation | None:
    """Return what stands next to the products of an integer kernel, and the codes that it gives if it does."""
    if bias is None:
        return None
    assert source.grid is not None
    low, high = (code // times for code in _codes(source.grid))
    input_codes = (min(low, 0), max(high, 0))  # padding adds 0
    beside = Accumulation(bias, float(source.grid.scale.reshape(())), source.grid.high, times, input_codes)
    if not fuses(lowering, tail):
        return beside
    assert tail.quantizer is not None
    grid = grid_of(lowering, tail.quantizer, 1)
    return replace(beside, output_scale=float(grid.scale.reshape(())), output_codes=_codes(grid))


def _times_finer(source: Value) -> int:
    """Return the power of two by which codes can be multiplied, so that weights keep factors of their own below saturation."""
    assert source.grid is not None
    times = 1
    while 2 * times * source.grid.high <= _LARGEST_FINE:
        times *= 2
    return times


def _finer(lowering: Lowering, source: Value, times: int) -> Value:
    assert source.grid is not None
    grid = source.grid
    if source.name not in lowering.finer:
        lowering.finer[source.name] = _multiplied(lowering, source.name, times)
    finer = CodeGrid(grid.scale / np.float32(times), grid.offset * times, grid.low * times, grid.high * times, grid.shift)
    return replace(source, name=lowering.finer[source.name], grid=finer)


def _multiplied(lowering: Lowering, codes: str, times: int) -> str:
    builder, wanted = lowering.builder, f"{codes}/finer"
    if lowering.container.runtime >= _MULTIPLIES_BYTES_FROM:
        return builder.add("Mul", [codes, builder.constant(np.array(times, np.uint8), "finer")], wanted)
    places = builder.constant(np.array(times.bit_length() - 1, np.uint8), "places")
    return builder.add("BitShift", [codes, places], wanted, direction="LEFT")


def _codes(grid: CodeGrid) -> tuple[int, int]:
    """Return smallest and largest code less the zero point."""
    offset = int(grid.offset.reshape(()))
    return grid.low - offset, grid.high - offset


def weight_and_bias(lowering: Lowering, source: Value, stored: StoredWeight, where: str) -> list[str]:
    assert source.grid is not None
    weight = _dequantized_weight(lowering, stored, 0, where)
    if stored.bias is None:
        return [weight]
    return [weight, _dequantized_bias(lowering, stored.bias, source.grid.scale.reshape(()), stored.scale, where)]


def _dequantized_weight(lowering: Lowering, stored: StoredWeight, axis: int, where: str) -> str:
    scale = stored.scale
    one = bool((scale == scale[0]).all()) and bool((stored.offset == stored.offset[0]).all())
    scale = scale[:1].reshape(()) if one else scale
    offset = np.broadcast_to(stored.offset[:1].reshape(()) if one else stored.offset, scale.shape).astype(np.int8)
    # A zero point of its own: ONNX Runtime's option x64quantprecision rewrites each, and fails at one that two weights share.
    zero_point = lowering.builder.store(numpy_helper.from_array(offset), "zero_point")
    inputs = [stored.name, lowering.builder.constant(scale, "scale"), zero_point]
    along: dict[str, Any] = {} if one else {"axis": axis}
    return lowering.builder.add("DequantizeLinear", inputs, f"{where}/weight", **along)


def _dequantized_bias(lowering: Lowering, units: Array, input_scale: Array, scale: Array, where: str) -> str:
    """Store a bias in units of the accumulator; its scale is the product of two that the file holds already."""
    builder = lowering.builder
    if bool((scale == scale[0]).all()):
        inputs = [builder.constant(units, "bias"), builder.constant((input_scale * scale[0]).astype(np.float32), "scale")]
        return builder.add("DequantizeLinear", inputs, f"{where}/bias")
    factors = [builder.constant(scale, "scale"), builder.constant(input_scale, "scale")]
    inputs = [builder.constant(units, "bias"), builder.add("Mul", factors, f"{where}/bias_scale")]
    return builder.add("DequantizeLinear", inputs, f"{where}/bias", axis=0)


def fuses(lowering: Lowering, tail: Tail) -> bool:
    """Whether the output goes to one quantizer with one scale and nothing else, so that a runtime makes codes in the same kernel."""
    return tail.quantizer is not None and _is_uniform(lowering, tail.quantizer)


def _is_uniform(lowering: Lowering, quantizer: fx.Node) -> bool:
    return lowering.array(quantizer.args[1]).size == 1


def number_of_outputs(lowering: Lowering, node: Any, weight: Weight | None) -> int:
    return len(weight.scale) if weight is not None else int(lowering.array(node).shape[0])
