"""Convolutions, linear layers and products of activations, in the forms that runtimes execute on integers."""

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import numpy_helper
from torch import fx

from stillbit.errors import ExportError
from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.lowering import Lowering, arguments, quantize
from stillbit.export.onnx.tails import Tail, tail_of
from stillbit.export.onnx.value import CodeGrid, Value, as_float, dequantize
from stillbit.export.onnx.weights import Accumulation, StoredWeight, Weight, store_weight

_FLOAT, _INT32 = 1, 6


def conv2d(lowering: Lowering, node: fx.Node) -> Value:
    """Lowers `aten.conv2d`: a Conv; a MatMul where windows do not overlap (1x1, patches) and the output stays float."""
    given = arguments(node)
    weight_node, stride, dilation, groups = (given[name] for name in ("weight", "stride", "dilation", "groups"))
    source, weight = lowering.value(given["input"]), lowering.weight(weight_node)
    outputs = _outputs(lowering, weight_node, weight)
    tail = tail_of(lowering.program, node, 1, outputs)
    lowering.folded |= set(tail.folded)
    shape = node.meta["shape"]
    where = lowering.where(node)
    total = _bias(lowering, given["bias"], tail)
    kernel = tuple(lowering.program.module.get_buffer(str(_codes_node(weight_node).target)).shape[2:])
    pads = _pads(source, given["padding"], kernel, dilation)
    stored, as_matmul = None, False
    if weight is not None:
        weight = weight if tail.factor is None else weight.scaled(tail.factor)
        if source.grid is not None and source.grid.shift is not None:
            source, total = _shift_into_bias(lowering, source, weight, total, groups, pads, where)
        apart = kernel == (1, 1) or (kernel == tuple(stride) and _divides(kernel, source.shape))
        as_matmul = apart and groups == 1 and not any(pads) and not _fuses(lowering, tail)
        if source.grid is not None and source.grid.uniform:
            beside = None if as_matmul else _beside(source, total)
            stored = store_weight(lowering.builder, weight, lowering.container, beside)
    if stored is None:
        name = _float_conv(lowering, node, source, (weight_node, weight, tail.factor), total, (stride, pads, dilation, groups))
        return Value(name, shape)
    assert source.grid is not None
    if as_matmul:
        return Value(_conv_as_matmul(lowering, node, source, stored, total, (kernel, stride)), shape)
    builder = lowering.builder
    inputs = [dequantize(builder, source.name, source.grid, where), *_weight_and_bias(lowering, source, stored, where)]
    attributes = {"strides": list(stride), "pads": list(pads), "dilations": list(dilation), "group": groups, "kernel_shape": list(kernel)}
    name = builder.add("Conv", inputs, f"{where}/conv", named=True, **attributes)
    lowering.record_layer(node, name, stored)
    return Value(name, shape)


def linear(lowering: Lowering, node: fx.Node) -> Value:
    """Lowers `aten.linear`: a Gemm on codes where one scale serves the input; else MatMulInteger, scaled by rows and columns."""
    given = arguments(node)
    weight_node = given["weight"]
    source, weight = lowering.value(given["input"]), lowering.weight(weight_node)
    outputs = _outputs(lowering, weight_node, weight)
    tail = tail_of(lowering.program, node, -1, outputs)
    lowering.folded |= set(tail.folded)
    where, shape, total = lowering.where(node), node.meta["shape"], _bias(lowering, given["bias"], tail)
    stored = None
    if weight is not None and source.grid is not None:
        if source.grid.shift is not None:
            source, total = _shift_into_bias(lowering, source, weight, total, 1, (0, 0, 0, 0), where)
        if source.grid is not None and source.grid.constant_along(-1):
            beside = _beside(source, total) if source.grid.uniform else None
            stored = store_weight(lowering.builder, weight, lowering.container, beside)
    if stored is None or source.grid is None:
        return Value(_float_linear(lowering, node, source, (weight_node, weight), total), shape)
    if not source.grid.uniform:
        return Value(_integer_linear(lowering, node, source, stored, total), shape)
    return _gemm(lowering, node, source, stored, tail)


def matmul(lowering: Lowering, node: fx.Node) -> Value:
    """Lowers `aten.matmul` and `aten.bmm` of two activations; a learned shift of a factor becomes a product of its own."""
    left, right = (lowering.value(one) for one in node.args[:2])
    where, shape = lowering.where(node), node.meta["shape"]
    if left.grid is None or right.grid is None or not left.grid.constant_along(-1) or not right.grid.constant_along(-2):
        factors = [as_float(lowering.builder, one, f"{where}/{side}") for one, side in ((left, "left"), (right, "right"))]
        name = lowering.builder.add("MatMul", factors, f"{where}/matmul", named=True)
        lowering.record_layer(node, name)
        return Value(name, shape)
    bare_left, bare_right = (replace(one, grid=replace(one.grid, shift=None)) for one in (left, right) if one.grid is not None)
    name = _product_of_codes(lowering, node, bare_left, bare_right)
    for term in _shift_terms(lowering, where, (left, bare_left), (right, bare_right)):
        name = lowering.builder.add("Add", [name, term], f"{where}/add")
    return Value(name, shape)


def _product_of_codes(lowering: Lowering, node: fx.Node, left: Value, right: Value) -> str:
    builder, where = lowering.builder, lowering.where(node)
    assert left.grid is not None
    assert right.grid is not None
    if left.grid.uniform and right.grid.uniform:
        factors = [dequantize(builder, one.name, one.grid, where) for one in (left, right) if one.grid is not None]
        name = builder.add("MatMul", factors, f"{where}/matmul", named=True)
        lowering.record_layer(node, name)
        return name
    name = _matmul_integer(lowering, where, (left.name, left.grid.offset), (right.name, right.grid.offset))
    lowering.record_layer(node, name)
    name = builder.add("Cast", [name], f"{where}/float", to=_FLOAT)
    for grid in (left.grid, right.grid):
        name = builder.add("Mul", [name, builder.constant(grid.scale, "scale")], f"{where}/scale")
    return name


def _shift_terms(lowering: Lowering, where: str, left: tuple[Value, Value], right: tuple[Value, Value]) -> list[str]:
    """Gives what learned shifts add to a product: (l + s)(r + t) = l r + s r + (l + s) t."""
    (with_left, _), (with_right, bare_right) = left, right
    builder, terms = lowering.builder, []
    assert with_left.grid is not None
    assert with_right.grid is not None
    if (shift := with_left.grid.shift) is not None:
        terms.append(_times(lowering, where, shift, as_float(builder, bare_right, f"{where}/right"), bare_right.shape))
    if (shift := with_right.grid.shift) is not None:
        whole_left = as_float(builder, with_left, f"{where}/left")
        if shift.shape[-2] == 1:  # the same for all that is summed: the sum of the left factor's row, times the shift
            rows = builder.add("ReduceSum", [whole_left, builder.constant(np.array([-1], np.int64), "axes")], f"{where}/rows", keepdims=1)
            terms.append(builder.add("Mul", [rows, builder.constant(shift, "shift")], f"{where}/shift"))
        else:
            whole = np.broadcast_to(shift, (*shift.shape[:-1], with_right.shape[-1] or shift.shape[-1]))
            terms.append(builder.add("MatMul", [whole_left, builder.constant(np.ascontiguousarray(whole), "shift")], f"{where}/shift"))
    return terms


def _times(lowering: Lowering, where: str, shift: Array, right: str, shape: Any) -> str:
    whole = np.ascontiguousarray(np.broadcast_to(shift, (*shift.shape[:-1], shape[-2])))
    return lowering.builder.add("MatMul", [lowering.builder.constant(whole, "shift"), right], f"{where}/shift")


def _matmul_integer(lowering: Lowering, where: str, left: tuple[str, Array], right: tuple[str, Array], kind: Any = np.uint8) -> str:
    points = [
        lowering.builder.constant(np.array(int(offset.reshape(())), dtype), "zero_point")
        for (_, offset), dtype in ((left, np.uint8), (right, kind))
    ]
    return lowering.builder.add("MatMulInteger", [left[0], right[0], *points], f"{where}/matmul", named=True)


def _gemm(lowering: Lowering, node: fx.Node, source: Value, stored: StoredWeight, tail: Tail) -> Value:
    builder, where, shape = lowering.builder, lowering.where(node), node.meta["shape"]
    assert source.grid is not None
    codes, inputs_count = source.name, source.shape[-1]
    if len(shape) > 2:
        codes = builder.add("Reshape", [codes, builder.constant(np.array([-1, inputs_count], np.int64), "shape")], f"{where}/rows")
    flat = CodeGrid(source.grid.scale.reshape(1, 1), source.grid.offset.reshape(1, 1), source.grid.low, source.grid.high)
    inputs = [dequantize(builder, codes, flat, where), *_weight_and_bias(lowering, source, stored, where)]
    name = builder.add("Gemm", inputs, f"{where}/gemm", named=True, transB=1)
    lowering.record_layer(node, name, stored)
    if len(shape) == 2:
        return Value(name, shape)
    if tail.quantizer is not None and _is_uniform(lowering, tail.quantizer):
        name, grid = quantize(lowering, name, 2, tail.quantizer)
        label = str(tail.quantizer.args[7])
        lowering.early.add(label)
        shaped = _reshaped(lowering, name, shape, where)
        one = (1,) * len(shape)
        return Value(shaped, shape, replace(grid, scale=grid.scale.reshape(one), offset=grid.offset.reshape(one)), quantizer=label)
    return Value(_reshaped(lowering, name, shape, where), shape)


def _integer_linear(lowering: Lowering, node: fx.Node, source: Value, stored: StoredWeight, bias: Array | None) -> str:
    builder, where = lowering.builder, lowering.where(node)
    assert source.grid is not None
    columns = builder.add("Transpose", [stored.name], f"{where}/transposed", perm=[1, 0])
    right = (columns, np.array(stored.offset))
    name = _matmul_integer(lowering, where, (source.name, source.grid.offset), right, np.int8)
    lowering.record_layer(node, name, stored)
    name = builder.add("Cast", [name], f"{where}/float", to=_FLOAT)
    for scale in (source.grid.scale, stored.scale):
        name = builder.add("Mul", [name, builder.constant(scale, "scale")], f"{where}/scale")
    if bias is None:
        return name
    return builder.add("Add", [name, builder.constant(bias.astype(np.float32), "bias")], f"{where}/bias")


def _conv_as_matmul(lowering: Lowering, node: fx.Node, source: Value, stored: StoredWeight, bias: Array | None, sizes: Any) -> str:
    """Writes a convolution whose windows do not overlap as a MatMul, which has an integer kernel with float output."""
    builder, where, (kernel, stride) = lowering.builder, lowering.where(node), sizes
    assert source.grid is not None
    codes = _windows_last(lowering, source, kernel, stride, where)
    outputs = len(stored.scale)
    rows = builder.add("Reshape", [stored.name, builder.constant(np.array([outputs, -1], np.int64), "shape")], f"{where}/rows")
    columns = builder.add("Transpose", [rows], f"{where}/transposed", perm=[1, 0])
    weight = _dequantized_weight(lowering, replace(stored, name=columns), 1, where)
    name = builder.add("MatMul", [dequantize(builder, codes, source.grid, where), weight], f"{where}/matmul", named=True)
    lowering.record_layer(node, name, stored)
    if bias is not None:
        name = builder.add("Add", [name, builder.constant(bias.astype(np.float32), "bias")], f"{where}/bias")
    return builder.add("Transpose", [name], f"{where}/channels_first", perm=[0, 3, 1, 2])


def _windows_last(lowering: Lowering, source: Value, kernel: tuple[int, ...], stride: Any, where: str) -> str:
    """Gives codes as (batch, rows, columns, what one window holds)."""
    builder, codes = lowering.builder, source.name
    if kernel == (1, 1):
        if any(step != 1 for step in stride):
            bounds = ([0, 0], [2**31 - 1] * 2, [2, 3], list(stride))
            codes = builder.add(
                "Slice", [codes, *(builder.constant(np.array(one, np.int64), "slice") for one in bounds)], f"{where}/strided"
            )
        return builder.add("Transpose", [codes], f"{where}/channels_last", perm=[0, 2, 3, 1])
    _, channels, height, width = (size or 0 for size in source.shape)
    rows, columns = height // kernel[0], width // kernel[1]
    cut = np.array([-1, channels, rows, kernel[0], columns, kernel[1]], np.int64)
    codes = builder.add("Reshape", [codes, builder.constant(cut, "shape")], f"{where}/cut")
    codes = builder.add("Transpose", [codes], f"{where}/windows", perm=[0, 2, 4, 1, 3, 5])
    joined = np.array([-1, rows, columns, channels * kernel[0] * kernel[1]], np.int64)
    return builder.add("Reshape", [codes, builder.constant(joined, "shape")], f"{where}/windows_last")


def _divides(kernel: tuple[int, ...], shape: Any) -> bool:
    return all(size is not None and size % side == 0 for size, side in zip(shape[2:], kernel, strict=True))


def _float_conv(
    lowering: Lowering, node: fx.Node, source: Value, weight: tuple[Any, Weight | None, Array | None], bias: Array | None, settings: Any
) -> str:
    builder, where = lowering.builder, lowering.where(node)
    stride, pads, dilation, groups = settings
    kernel, stored = _float_weight(lowering, source, *weight, where)
    inputs = [as_float(builder, replace(source, pads=(0, 0, 0, 0)), where), kernel]
    if bias is not None:
        inputs.append(builder.constant(bias.astype(np.float32), "bias"))
    attributes = {"strides": list(stride), "pads": list(pads), "dilations": list(dilation), "group": groups}
    name = builder.add("Conv", inputs, f"{where}/conv", named=True, **attributes)
    lowering.record_layer(node, name, stored)
    return name


def _float_linear(lowering: Lowering, node: fx.Node, source: Value, weight: tuple[Any, Weight | None], bias: Array | None) -> str:
    builder, where = lowering.builder, lowering.where(node)
    rows, stored = _float_weight(lowering, source, *weight, None, where)
    matrix = builder.add("Transpose", [rows], f"{where}/transposed", perm=[1, 0])
    name = builder.add("MatMul", [as_float(builder, source, where), matrix], f"{where}/matmul", named=True)
    lowering.record_layer(node, name, stored)
    if bias is None:
        return name
    return builder.add("Add", [name, builder.constant(bias.astype(np.float32), "bias")], f"{where}/bias")


def _float_weight(
    lowering: Lowering, source: Value, node: Any, quantized: Weight | None, factor: Array | None, where: str
) -> tuple[str, StoredWeight | None]:
    """Stores a weight for a product in floats: small if it has codes, which become floats once, when the file is loaded."""
    if quantized is None:
        array = lowering.array(node)
        scaled = array if factor is None else array * factor.reshape(-1, *(1,) * (array.ndim - 1))
        return lowering.builder.constant(scaled.astype(np.float32), str(node.target)), None
    stored = store_weight(lowering.builder, quantized, lowering.container)
    if stored is None:
        raise ExportError(
            f"quantizer {quantized.label}: no int8 tensor holds its codes ({quantized.bits} bits, no zero); allowed: up to 7 bits"
        )
    if source.grid is not None:  # ONNX Runtime quantizes float weights beside dequantized inputs anew, each tensor by one scale
        return _dequantized_weight(lowering, stored, 0, where), stored
    # Not DequantizeLinear: it would run at each call, or as a MatMulNBits that rounds the input to 8 bits.
    builder, axes = lowering.builder, (-1, *(1,) * (quantized.codes.ndim - 1))
    name = builder.add("Cast", [stored.name], f"{where}/float", to=_FLOAT)
    if stored.offset.any():
        name = builder.add("Sub", [name, builder.constant(stored.offset.astype(np.float32).reshape(axes), "zero_point")], f"{where}/centre")
    return builder.add("Mul", [name, builder.constant(stored.scale.reshape(axes), "scale")], f"{where}/weight"), stored


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
    """Stores a bias in units of the accumulator; its scale is the product of two that the file holds already."""
    builder = lowering.builder
    if bool((scale == scale[0]).all()):
        inputs = [builder.constant(units, "bias"), builder.constant((input_scale * scale[0]).astype(np.float32), "scale")]
        return builder.add("DequantizeLinear", inputs, f"{where}/bias")
    factors = [builder.constant(scale, "scale"), builder.constant(input_scale, "scale")]
    inputs = [builder.constant(units, "bias"), builder.add("Mul", factors, f"{where}/bias_scale")]
    return builder.add("DequantizeLinear", inputs, f"{where}/bias", axis=0)


def _shift_into_bias(
    lowering: Lowering, source: Value, weight: Weight, bias: Array | None, groups: int, pads: tuple[int, ...], where: str
) -> tuple[Value, Array | None]:
    """Makes a learned shift of the input part of the bias, where it is one number a channel and no padding stands beside it."""
    assert source.grid is not None
    shift = source.grid.shift
    assert shift is not None
    convolution = weight.codes.ndim == 4
    axis = 1 if convolution else shift.ndim - 1
    if any(pads) or any(size != 1 for place, size in enumerate(shift.shape) if place != axis):
        floats = as_float(lowering.builder, replace(source, pads=(0, 0, 0, 0)), where)
        return Value(floats, source.shape, pads=source.pads), bias
    values = weight.values()
    values = values.reshape(*values.shape[:2], -1).sum(-1) if convolution else values
    inputs = values.shape[1] * groups
    by_channel = np.broadcast_to(shift.reshape(-1), (inputs,)).astype(np.float64).reshape(groups, -1)
    added = np.einsum("goi,gi->go", values.reshape(groups, -1, values.shape[1]), by_channel).reshape(-1)
    return replace(source, grid=replace(source.grid, shift=None)), added if bias is None else bias + added


def _bias(lowering: Lowering, bias: Any, tail: Tail) -> Array | None:
    own = None if bias is None else lowering.array(bias).astype(np.float64)
    if own is not None and tail.factor is not None:
        own = own * tail.factor
    if own is None or tail.bias is None:
        return tail.bias if own is None else own
    total: Array = own + tail.bias
    return total


def _beside(source: Value, bias: Array | None) -> Accumulation | None:
    if bias is None:
        return None
    assert source.grid is not None
    return Accumulation(bias, float(source.grid.scale.reshape(())), source.grid.high)


def _weight_and_bias(lowering: Lowering, source: Value, stored: StoredWeight, where: str) -> list[str]:
    assert source.grid is not None
    weight = _dequantized_weight(lowering, stored, 0, where)
    if stored.bias is None:
        return [weight]
    return [weight, _dequantized_bias(lowering, stored.bias, source.grid.scale.reshape(()), stored.scale, where)]


def _pads(source: Value, padding: Any, kernel: tuple[int, ...], dilation: Any) -> tuple[int, int, int, int]:
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        own = (totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2)
    else:
        rows, columns = (0, 0) if padding == "valid" else padding
        own = (rows, columns, rows, columns)
    top, left, bottom, right = (a + b for a, b in zip(own, source.pads, strict=True))
    return top, left, bottom, right


def _fuses(lowering: Lowering, tail: Tail) -> bool:
    """Whether the output goes to one quantizer with one scale and nothing else, so that a runtime makes codes in the same kernel."""
    return tail.quantizer is not None and _is_uniform(lowering, tail.quantizer)


def _is_uniform(lowering: Lowering, quantizer: fx.Node) -> bool:
    return lowering.array(quantizer.args[1]).size == 1


def _reshaped(lowering: Lowering, name: str, shape: Any, where: str) -> str:
    sizes = np.array([-1 if size is None else size for size in shape], np.int64)
    return lowering.builder.add("Reshape", [name, lowering.builder.constant(sizes, "shape")], f"{where}/shape")


def _outputs(lowering: Lowering, node: Any, weight: Weight | None) -> int:
    return len(weight.scale) if weight is not None else int(lowering.array(node).shape[0])


def _codes_node(node: fx.Node) -> fx.Node:
    if node.op == "get_attr":
        return node
    codes = node.args[0]
    assert isinstance(codes, fx.Node)
    return codes
