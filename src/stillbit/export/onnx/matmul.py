"""Products of two activations, as attention has them."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.lowering import Lowering
from stillbit.export.onnx.multiplying import FLOAT
from stillbit.export.onnx.value import Value, as_float, dequantize


def matmul(lowering: Lowering, node: fx.Node) -> Value:
    """Lower `aten.matmul` and `aten.bmm` of two activations; a learned shift of a factor becomes a product of its own."""
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
    name = matmul_integer(lowering, where, (left.name, left.grid.offset), (right.name, right.grid.offset))
    lowering.record_layer(node, name)
    name = builder.add("Cast", [name], f"{where}/float", to=FLOAT)
    for grid in (left.grid, right.grid):
        name = builder.add("Mul", [name, builder.constant(grid.scale, "scale")], f"{where}/scale")
    return name


def _shift_terms(lowering: Lowering, where: str, left: tuple[Value, Value], right: tuple[Value, Value]) -> list[str]:
    """Return what learned shifts add to a product: (l + s)(r + t) = l r + s r + (l + s) t."""
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


def matmul_integer(lowering: Lowering, where: str, left: tuple[str, Array], right: tuple[str, Array], kind: Any = np.uint8) -> str:
    points = [
        lowering.builder.constant(np.array(int(offset.reshape(())), dtype), "zero_point")
        for (_, offset), dtype in ((left, np.uint8), (right, kind))
    ]
    return lowering.builder.add("MatMulInteger", [left[0], right[0], *points], f"{where}/matmul", named=True)
