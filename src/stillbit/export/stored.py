"""The codes of weights in an ONNX file, as a runtime has them once it has decoded their container."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stillbit.errors import ExportError
from stillbit.export.runtime import Array, open_session, refusals

# Where integers meet activations or scales: the input that holds the codes, the one that holds their zero point, and its axis.
_ENDS = {
    "DequantizeLinear": (0, 2, 1),
    "MatMulInteger": (1, 3, -1),
    "ConvInteger": (1, 3, 0),
    "QLinearConv": (3, 5, 0),
    "QLinearMatMul": (3, 5, -1),
}
_FLOAT = 1
_PASSES = 20  # operations from an initializer to its integers, at most


@dataclass(frozen=True)
class _End:
    """The integers that come of an initializer.

    Attributes:
        codes: The value (`onnx_ir.Value`).
        zero_point: Theirs; None: 0.
        axis: Of the zero point.
    """

    codes: Any
    zero_point: Any
    axis: int


def stored_codes(
    model: Any, names: list[str], where: str = "the file", *, centred: bool = True, runtime: str = "onnxruntime"
) -> dict[str, Array]:
    """Return weights' codes as whole numbers, evaluated by a runtime; the model is an `onnx_ir.Model`."""
    constants = _constants(model.graph)
    ends = {name: _end(name, constants, where) for name in dict.fromkeys(names)}
    values = _evaluated(model, [one for end in ends.values() for one in (end.codes, end.zero_point) if one is not None], where, runtime)
    if not centred:
        return {name: values[end.codes] for name, end in ends.items()}
    return {name: _centred(values[end.codes], values.get(end.zero_point), end.axis) for name, end in ends.items()}


def stored_bytes(model: Any, names: list[str], where: str = "the file") -> dict[str, int]:
    """Return the bytes that the file holds for weights' codes, by name of the initializer; what several share counts for the first."""
    import onnx_ir

    constants, counted, found = _constants(model.graph), set[str](), {}
    for name in dict.fromkeys(names):
        sources = onnx_ir.convenience.extract(model.graph, [], [_end(name, constants, where).codes]).initializers
        found[name] = sum(tensor_bytes(value.const_value.raw) for one, value in sources.items() if one not in counted)
        counted |= set(sources)
    return found


def tensor_bytes(tensor: Any) -> int:
    """Return the bytes of an initializer's values (`onnx.TensorProto`)."""
    return len(tensor.raw_data) or tensor.ByteSize()


def _centred(codes: Array, zero_point: Array | None, axis: int) -> Array:
    if zero_point is None:
        return codes
    if zero_point.ndim == 1:
        zero_point = np.moveaxis(zero_point.reshape(-1, *(1,) * (codes.ndim - 1)), 0, axis)
    difference: Array = codes - zero_point
    return difference


def _constants(graph: Any) -> dict[str, Any]:
    """Return the values that do not depend on the input, by name."""
    constants = dict(graph.initializers)
    for node in graph:
        if all(value is None or value.name in constants for value in node.inputs):
            constants |= {value.name: value for value in node.outputs}
    return constants


def _end(name: str, constants: dict[str, Any], where: str) -> _End:
    """Follow an initializer to its integers."""
    value = constants.get(name)
    if value is None:
        raise ExportError(f"{where}: its description names {name}, which is no initializer of it")
    for _ in range(_PASSES):
        ends = [end for node, index in value.uses() if (end := _end_at(node, index)) is not None]
        if ends:
            return ends[0]
        value = next((node.outputs[0] for node in value.consumers() if node.outputs[0].name in constants), None)
        if value is None:
            break
    raise ExportError(f"{where}: no integers are made of {name}")


def _end_at(node: Any, index: int) -> _End | None:
    """Return the end if a node that reads a value as its input `index` is one."""
    if node.op_type == "Cast" and node.attributes.get_int("to") == _FLOAT:  # a weight that is multiplied in floats
        subtracting = [reader for reader, position in node.outputs[0].uses() if reader.op_type == "Sub" and position == 0]
        return _End(node.inputs[0], subtracting[0].inputs[1] if subtracting else None, 0)
    codes, zero_point, axis = _ENDS.get(node.op_type, (-1, -1, 0))
    if index != codes:
        return None
    subtracted = node.inputs[zero_point] if len(node.inputs) > zero_point else None
    return _End(node.inputs[codes], subtracted, node.attributes.get_int("axis", axis))


def _evaluated(model: Any, values: list[Any], where: str, runtime: str) -> dict[Any, Array]:
    """Compute constants: in a graph of their own, or in the whole one for OpenVINO, which rewrites what decodes next to what reads it."""
    import onnx_ir

    if not values:
        return {}
    values = list(dict.fromkeys(values))
    others = list(model.graph.outputs) if runtime == "openvino" else []
    graph = onnx_ir.convenience.extract(model.graph, model.graph.inputs, [*others, *values])
    integers = [onnx_ir.val(f"{value.name}/int32", onnx_ir.DataType.INT32) for value in values]
    for value, integer in zip(graph.outputs[len(others) :], integers, strict=True):
        graph.append(onnx_ir.node("Cast", [value], {"to": onnx_ir.DataType.INT32}, outputs=[integer]))
    graph.outputs[len(others) :] = integers
    with refusals(where, "onnx_ir"):
        part = onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=model.ir_version))
    found = open_session(part, runtime, where=where)(np.zeros(_sizes(graph), np.float32))
    return {value: found[integer.name].astype(np.int64) for value, integer in zip(values, integers, strict=True)}


def _sizes(graph: Any) -> list[int]:
    """Return the shape of an input of one."""
    return [size if isinstance(size, int) else 1 for size in graph.inputs[0].shape or ()]
