"""The codes of weights in an ONNX file, as a runtime has them once it has decoded their container."""

from typing import Any

import numpy as np

from stillbit.errors import ExportError
from stillbit.export.runtime import Array, open_session

# Where integers meet activations or scales: the input that holds the codes, and the one that holds their zero point.
_ENDS = {
    "DequantizeLinear": (0, 2),
    "MatMulInteger": (1, 3),
    "ConvInteger": (1, 3),
    "QLinearConv": (3, 5),
    "QLinearMatMul": (3, 5),
}
_PASSES = 20  # operations from an initializer to its integers, at most


def stored_codes(model: Any, names: list[str], where: str = "the file") -> dict[str, Array]:
    """Gives weights' codes less their zero points, as whole numbers, evaluated by ONNX Runtime.

    Args:
        model: An `onnx.ModelProto`.
        names: Of the initializers; what a graph makes of one before it is multiplied or dequantized is followed.
        where: The file's name, for messages.

    Returns:
        By name, int64, in the shape that the file multiplies.

    Raises:
        ExportError: If a name is not in the file, or no integers come of it.
    """
    constants = _constants(model.graph)
    ends = {name: _end(model.graph, name, constants, where) for name in dict.fromkeys(names)}
    wanted = [one for end in ends.values() for one in end if one]
    values = _evaluated(model, constants, wanted, where)
    return {name: _less(values[codes], values.get(zero_point)) for name, (codes, zero_point) in ends.items()}


def _less(codes: Array, zero_point: Array | None) -> Array:
    if zero_point is None or zero_point.size == 1:
        return codes - (0 if zero_point is None else zero_point.reshape(()))
    (axis,) = (axis for axis, size in enumerate(codes.shape) if size == zero_point.size)  # a file of ours has zero points of one axis
    difference: Array = codes - zero_point.reshape([-1 if one == axis else 1 for one in range(codes.ndim)])
    return difference


def _constants(graph: Any) -> dict[str, Any]:
    """Gives what does not hang on the input: by name of the tensor, the initializer or the node that it comes from."""
    constants: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if all(name in constants for name in node.input if name):
            constants |= dict.fromkeys(node.output, node)
    return constants


def _end(graph: Any, name: str, constants: dict[str, Any], where: str) -> tuple[str, str]:
    """Gives the names of the integers that come of an initializer, and of their zero point ("": none)."""
    if name not in constants:
        raise ExportError(f"{where}: its description names {name}, which is no initializer of it")
    for _ in range(_PASSES):
        readers = [node for node in graph.node if name in node.input]
        for node in readers:
            codes, zero_point = _ENDS.get(node.op_type, (-1, -1))
            if codes >= 0 and list(node.input).index(name) == codes:
                return name, node.input[zero_point] if len(node.input) > zero_point else ""
        onward = next((node for node in readers if node.output[0] in constants), None)
        if onward is None:
            break
        name = onward.output[0]
    raise ExportError(f"{where}: no integers are made of {name}")


def _evaluated(model: Any, constants: dict[str, Any], names: list[str], where: str) -> dict[str, Array]:
    from onnx import TensorProto, helper

    nodes: dict[int, Any] = {}
    tensors: dict[str, Any] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        source = constants[name]
        if hasattr(source, "op_type"):
            nodes[id(source)] = source
            waiting += [one for one in source.input if one]
        else:
            tensors[name] = source
    ordered = [node for node in model.graph.node if id(node) in nodes]
    casts = [helper.make_node("Cast", [name], [f"{name}/int32"], to=TensorProto.INT32) for name in dict.fromkeys(names)]
    outputs = [helper.make_tensor_value_info(cast.output[0], TensorProto.INT32, None) for cast in casts]
    unused = helper.make_tensor_value_info("unused", TensorProto.FLOAT, [1])
    graph = helper.make_graph([*ordered, *casts], "codes", [unused], outputs, list(tensors.values()))
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    found = open_session(part, where=where)(np.zeros(1, np.float32))
    return {name: found[f"{name}/int32"].astype(np.int64) for name in dict.fromkeys(names)}
