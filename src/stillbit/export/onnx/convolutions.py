"""Convolutions, in the forms that runtimes execute on integers."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.lowering import Lowering
from stillbit.export.onnx.multiplying import (
    float_weight,
    floats_of,
    fuses,
    gemm,
    number_of_outputs,
    reshaped,
    shift_into_bias,
    stored_with_bias,
    total_bias,
    weight_and_bias,
)
from stillbit.export.onnx.tails import tail_of
from stillbit.export.onnx.value import Value, dequantize
from stillbit.export.onnx.weights import StoredWeight, Weight
from stillbit.export.program import arguments


def conv2d(lowering: Lowering, node: fx.Node) -> Value:
    """Lower `aten.conv2d`: a Conv; a Gemm where windows do not overlap (1x1, patches) and the output stays float."""
    given = arguments(node)
    weight_node, stride, dilation, groups = (given[name] for name in ("weight", "stride", "dilation", "groups"))
    source, weight = lowering.value(given["input"]), lowering.weight(weight_node)
    outputs = number_of_outputs(lowering, weight_node, weight)
    tail = tail_of(lowering.program, node, 1, outputs)
    lowering.folded |= set(tail.folded)
    shape = node.meta["shape"]
    where = lowering.where(node)
    total = total_bias(lowering, given["bias"], tail)
    kernel = tuple(lowering.program.module.get_buffer(str(_codes_node(weight_node).target)).shape[2:])
    pads = _pads(source, given["padding"], kernel, dilation)
    stored, as_gemm = None, False
    if weight is not None:
        weight = weight if tail.factor is None else weight.scaled(tail.factor)
        if source.grid is not None and source.grid.shift is not None:
            source, total = shift_into_bias(lowering, source, weight, total, groups, pads, where)
        apart = kernel == (1, 1) or (kernel == tuple(stride) and _divides(kernel, source.shape))
        as_gemm = apart and groups == 1 and not any(pads) and not fuses(lowering, tail)
        if source.grid is not None and source.grid.uniform:
            # Where the output stays float, so does the bias: half a unit of an accumulator is a good part of a step of what reads it.
            source, stored = stored_with_bias(lowering, source, weight, total if fuses(lowering, tail) else None, tail)
    if stored is None:
        name = _float_conv(lowering, node, source, (weight_node, weight, tail.factor), total, (stride, pads, dilation, groups))
        return Value(name, shape)
    assert source.grid is not None
    if as_gemm:
        return Value(_as_gemm(lowering, node, source, stored, total, (kernel, stride)), shape)
    builder = lowering.builder
    inputs = [dequantize(builder, source.name, source.grid, where), *weight_and_bias(lowering, source, stored, where)]
    if stored.bias is None and total is not None:
        inputs.append(builder.constant(total.astype(np.float32), "bias"))
    attributes = {"strides": list(stride), "pads": list(pads), "dilations": list(dilation), "group": groups, "kernel_shape": list(kernel)}
    name = builder.add("Conv", inputs, f"{where}/conv", named=True, **attributes)
    lowering.record_layer(node, name, stored)
    return Value(name, shape)


def _as_gemm(lowering: Lowering, node: fx.Node, source: Value, stored: StoredWeight, bias: Array | None, sizes: Any) -> str:
    """Write a convolution whose windows do not overlap as a Gemm, which has an integer kernel with float output."""
    builder, where, (kernel, stride) = lowering.builder, lowering.where(node), sizes
    outputs, (rows, columns) = len(stored.scale), node.meta["shape"][2:]
    windows = reshaped(
        lowering, _windows_last(lowering, source, kernel, stride, where), (-1, (source.shape[1] or 0) * kernel[0] * kernel[1]), where
    )
    matrix = reshaped(lowering, stored.name, (outputs, -1), where)
    name = gemm(lowering, node, windows, source, replace(stored, name=matrix))
    if bias is not None:
        name = builder.add("Add", [name, builder.constant(bias.astype(np.float32), "bias")], f"{where}/bias")
    name = reshaped(lowering, name, (-1, rows, columns, outputs), where)
    return builder.add("Transpose", [name], f"{where}/channels_first", perm=[0, 3, 1, 2])


def _windows_last(lowering: Lowering, source: Value, kernel: tuple[int, ...], stride: Any, where: str) -> str:
    """Return codes as (batch, rows, columns, what one window holds)."""
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
    kernel, stored = float_weight(lowering, *weight, where)
    inputs = [floats_of(lowering, source, where), kernel]
    if bias is not None:
        inputs.append(builder.constant(bias.astype(np.float32), "bias"))
    attributes = {"strides": list(stride), "pads": list(pads), "dilations": list(dilation), "group": groups}
    name = builder.add("Conv", inputs, f"{where}/conv", named=True, **attributes)
    lowering.record_layer(node, name, stored)
    return name


def _pads(source: Value, padding: Any, kernel: tuple[int, ...], dilation: Any) -> tuple[int, int, int, int]:
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        own = (totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2)
    else:
        rows, columns = (0, 0) if padding == "valid" else padding
        own = (rows, columns, rows, columns)
    top, left, bottom, right = (a + b for a, b in zip(own, source.pads, strict=True))
    return top, left, bottom, right


def _codes_node(node: fx.Node) -> fx.Node:
    if node.op == "get_attr":
        return node
    codes = node.args[0]
    assert isinstance(codes, fx.Node)
    return codes
