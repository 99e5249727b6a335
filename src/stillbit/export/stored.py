"""The codes of weights in an ONNX file, as a runtime has them once it has decoded their container."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stillbit.errors import ExportError
from stillbit.export.runtime import Array, open_session

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
        codes: Name of the tensor.
        zero_point: Name of theirs; "": 0.
        axis: Of the zero point.
    """

    codes: str
    zero_point: str
    axis: int


def stored_codes(
    model: Any, names: list[str], where: str = "the file", *, centred: bool = True, runtime: str = "onnxruntime"
) -> dict[str, Array]:
    """Return weights' codes as whole numbers, evaluated by a runtime."""
    constants = _constants(model.graph)
    ends = {name: _end(model.graph, name, constants, where) for name in dict.fromkeys(names)}
    wanted = [one for end in ends.values() for one in (end.codes, end.zero_point) if one]
    values = _evaluated(model, constants, wanted, where, runtime)
    if not centred:
        return {name: values[end.codes] for name, end in ends.items()}
    return {name: _centred(values[end.codes], values.get(end.zero_point), end.axis) for name, end in ends.items()}


def stored_bytes(model: Any, names: list[str], where: str = "the file") -> dict[str, int]:
    """Return the bytes that the file holds for weights' codes, by name of the initializer; what several share counts for the first."""
    constants, counted, found = _constants(model.graph), set[str](), {}
    for name in dict.fromkeys(names):
        _, tensors = _sources(constants, [_end(model.graph, name, constants, where).codes])
        found[name] = sum(tensor_bytes(tensor) for one, tensor in tensors.items() if one not in counted)
        counted |= set(tensors)
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
    """Return what does not depend on the input: by name of the tensor, the initializer or the node that it comes from."""
    constants: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if all(name in constants for name in node.input if name):
            constants |= dict.fromkeys(node.output, node)
    return constants


def _end(graph: Any, name: str, constants: dict[str, Any], where: str) -> _End:
    """Follow an initializer to its integers."""
    given = name
    if name not in constants:
        raise ExportError(f"{where}: its description names {name}, which is no initializer of it")
    for _ in range(_PASSES):
        readers = [node for node in graph.node if name in node.input]
        ends = [end for node in readers if (end := _end_at(graph, node, name)) is not None]
        if ends:
            return ends[0]
        onward = next((node for node in readers if node.output[0] in constants), None)
        if onward is None:
            break
        name = onward.output[0]
    raise ExportError(f"{where}: no integers are made of {given}")


def _end_at(graph: Any, node: Any, name: str) -> _End | None:
    """Return the end if a node that reads that tensor is one."""
    attributes = {one.name: one.i for one in node.attribute}
    if node.op_type == "Cast" and attributes["to"] == _FLOAT:  # a weight that is multiplied in floats
        subtracting = [one for one in graph.node if one.op_type == "Sub" and one.input[0] == node.output[0]]
        return _End(name, subtracting[0].input[1] if subtracting else "", 0)
    codes, zero_point, axis = _ENDS.get(node.op_type, (-1, -1, 0))
    if codes < 0 or list(node.input).index(name) != codes:
        return None
    return _End(name, node.input[zero_point] if len(node.input) > zero_point else "", attributes.get("axis", axis))


def _evaluated(model: Any, constants: dict[str, Any], names: list[str], where: str, runtime: str) -> dict[str, Array]:
    """Compute constants: in a graph of their own, or in the whole one for OpenVINO, which rewrites what decodes next to what reads it."""
    import onnx
    from onnx import TensorProto, helper

    names = list(dict.fromkeys(names))
    part, sizes = (model, _sizes(model)) if runtime == "openvino" else (_alone(model, constants, names), [1])
    copied = onnx.ModelProto()
    copied.CopyFrom(part)
    for name in names:
        copied.graph.node.append(helper.make_node("Cast", [name], [f"{name}/int32"], to=TensorProto.INT32))
        copied.graph.output.append(helper.make_tensor_value_info(f"{name}/int32", TensorProto.INT32, None))
    found = open_session(copied, runtime, where=where)(np.zeros(sizes, np.float32))
    return {name: found[f"{name}/int32"].astype(np.int64) for name in names}


def _alone(model: Any, constants: dict[str, Any], names: list[str]) -> Any:
    """Return a model of what computes constants, with an input and an output that have nothing to do with them."""
    from onnx import TensorProto, helper

    nodes, tensors = _sources(constants, names)
    ordered = [node for node in model.graph.node if node.output[0] in nodes]
    given, taken = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("given", "taken"))
    echo = helper.make_node("Identity", ["given"], ["taken"])
    graph = helper.make_graph([*ordered, echo], "codes", [given], [taken], list(tensors.values()))
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def _sizes(model: Any) -> list[int]:
    """Return the shape of an input of one."""
    return [size.dim_value or 1 for size in model.graph.input[0].type.tensor_type.shape.dim]


def _sources(constants: dict[str, Any], names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the nodes, by their first output, and the initializers, by name, that tensors are computed from."""
    nodes: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        source = constants[name]
        if hasattr(source, "op_type"):
            nodes[source.output[0]] = source
            waiting += [one for one in source.input if one]
        else:
            tensors[name] = source
    return nodes, tensors
