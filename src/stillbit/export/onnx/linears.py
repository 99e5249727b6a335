"""Linear layers, in the forms that runtimes execute on integers."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.lowering import Lowering, quantize
from stillbit.export.onnx.matmul import matmul_integer
from stillbit.export.onnx.movements import axes_of
from stillbit.export.onnx.multiplying import (
    FLOAT,
    float_weight,
    floats_of,
    fuses,
    gemm,
    number_of_outputs,
    reshaped,
    shift_into_bias,
    stored_with_bias,
    total_bias,
)
from stillbit.export.onnx.tails import TURNS, VIEWS, Tail, tail_of
from stillbit.export.onnx.value import Value
from stillbit.export.onnx.weights import StoredWeight, Weight, arrange, store_weight
from stillbit.export.program import arguments, operation_name


def linear(lowering: Lowering, node: fx.Node) -> Value:
    """Lower `aten.linear`: a Gemm on codes where one scale serves the input; else MatMulInteger, scaled by rows and columns."""
    given = arguments(node)
    weight_node = given["weight"]
    source, weight = lowering.value(given["input"]), lowering.weight(weight_node)
    outputs = number_of_outputs(lowering, weight_node, weight)
    tail = tail_of(lowering.program, node, -1, outputs)
    lowering.folded |= set(tail.folded)
    where, shape, total = lowering.where(node), node.meta["shape"], total_bias(lowering, given["bias"], tail)
    stored = None
    if weight is not None and tail.factor is not None:
        weight = weight.scaled(tail.factor)
    if weight is not None and source.grid is not None:
        if source.grid.shift is not None:
            source, total = shift_into_bias(lowering, source, weight, total, 1, (0, 0, 0, 0), where)
        if source.grid is not None and source.grid.uniform:
            source, stored = stored_with_bias(lowering, source, weight, None if tail.splits else total, tail)
        elif source.grid is not None and source.grid.constant_along(-1):
            arranged = arrange(weight)
            if arranged is not None and arranged.one_offset:
                stored = store_weight(lowering.builder, weight, lowering.container, arranged)
    if stored is None or source.grid is None:
        return Value(_float_linear(lowering, node, source, (weight_node, weight, tail.factor), total), shape)
    if not source.grid.uniform:
        return Value(_integer_linear(lowering, node, source, stored, total), shape)
    return _gemm(lowering, node, source, stored, tail, total if tail.splits else None)


def _gemm(lowering: Lowering, node: fx.Node, source: Value, stored: StoredWeight, tail: Tail, apart: Array | None) -> Value:
    """Write a linear layer as a Gemm of rows; a quantizer behind it stands before rows become the tensor again, so that it fuses.

    A bias `apart` is added in floats: in whole units of the accumulator it would move codes that nothing corrects.
    """
    where, shape = lowering.where(node), node.meta["shape"]
    flat = len(shape) == 2
    codes = source.name if flat else reshaped(lowering, source.name, (-1, source.shape[-1]), where)
    name = gemm(lowering, node, codes, source, stored)
    if apart is not None:
        name = lowering.builder.add("Add", [name, lowering.builder.constant(apart.astype(np.float32), "bias")], f"{where}/bias")
    if flat:
        return Value(name, shape)
    turned = _turned_axes(node, tail.quantizer)
    if not fuses(lowering, tail) or turned is None:
        name = lowering.builder.add("Unsqueeze", [name, lowering.builder.constant(np.array([0], np.int64), "axes")], f"{where}/rows")
        return Value(reshaped(lowering, name, shape, where), shape)
    assert tail.quantizer is not None
    name, grid = quantize(lowering, name, 2, tail.quantizer, turned=turned)
    label, one = str(tail.quantizer.args[7]), (1,) * len(shape)
    grid = replace(grid, scale=grid.scale.reshape(one), offset=grid.offset.reshape(one))
    return Value(reshaped(lowering, name, shape, where), shape, grid, quantizer=label)


def _turned_axes(node: fx.Node, quantizer: fx.Node | None) -> tuple[int, ...] | None:
    """Return the permutation that turns a quantizer's codes back to the order of a layer's rows; empty: unchanged; None: there is none."""
    order: list[int] = []
    while quantizer is not None and node is not quantizer:
        (node,) = node.users
        name = operation_name(node.target)
        if name in TURNS:
            axes = axes_of(node)
            order = [(order or list(range(len(axes))))[axis] for axis in axes]
        elif name in VIEWS and name != "aten.contiguous.default" and order:
            return None
    return tuple(np.argsort(order).tolist())


def _integer_linear(lowering: Lowering, node: fx.Node, source: Value, stored: StoredWeight, bias: Array | None) -> str:
    builder, where = lowering.builder, lowering.where(node)
    assert source.grid is not None
    columns = builder.add("Transpose", [stored.name], f"{where}/transposed", perm=[1, 0])
    right = (columns, stored.offset[:1])  # one for all outputs
    name = matmul_integer(lowering, where, (source.name, source.grid.offset), right, np.int8)
    lowering.record_layer(node, name, stored)
    name = builder.add("Cast", [name], f"{where}/float", to=FLOAT)
    for scale in (source.grid.scale, stored.scale):
        name = builder.add("Mul", [name, builder.constant(scale, "scale")], f"{where}/scale")
    if bias is None:
        return name
    return builder.add("Add", [name, builder.constant(bias.astype(np.float32), "bias")], f"{where}/bias")


def _float_linear(
    lowering: Lowering, node: fx.Node, source: Value, weight: tuple[Any, Weight | None, Array | None], bias: Array | None
) -> str:
    builder, where = lowering.builder, lowering.where(node)
    rows, stored = float_weight(lowering, *weight, where)
    matrix = builder.add("Transpose", [rows], f"{where}/transposed", perm=[1, 0])
    name = builder.add("MatMul", [floats_of(lowering, source, where), matrix], f"{where}/matmul", named=True)
    lowering.record_layer(node, name, stored)
    if bias is None:
        return name
    return builder.add("Add", [name, builder.constant(bias.astype(np.float32), "bias")], f"{where}/bias")
