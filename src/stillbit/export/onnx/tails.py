"""What stands behind a layer: batch norm and constants that become part of it, and the quantizer that reads nothing but it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.value import Shape, constant_array
from stillbit.export.program import Program, operation_name

VIEWS = ("aten.view.default", "aten.reshape.default", "aten.flatten.using_ints", "aten.contiguous.default", "aten.unsqueeze.default")
POOLS = ("aten.max_pool2d.default",)
TURNS = ("aten.permute.default", "aten.transpose.int", "aten.mT.default")


@dataclass
class Tail:
    """What follows a layer.

    Attributes:
        factor: What outputs are multiplied by, one per output, float64; None: 1.
        bias: What is added then, one per output, float64; None: 0.
        folded: Operations that are part of the layer now; what they give is what the layer gives.
        quantizer: The quantizer that alone reads the output, behind movements of elements and maximum pools at most; None: none.
        splits: Whether several quantizers read the output: no runtime fuses it into one, and each rounds it as it is.
    """

    factor: Array | None = None
    bias: Array | None = None
    folded: list[fx.Node] = field(default_factory=list)
    quantizer: fx.Node | None = None
    splits: bool = False


def tail_of(program: Program, layer: fx.Node, axis: int, outputs: int) -> Tail:
    """Follow a layer's output as long as it has one reader."""
    tail, node, viewed = Tail(), layer, [layer]
    while (reader := _only_reader(node)) is not None:
        name = operation_name(reader.target) if reader.op == "call_function" else ""
        if name == "aten.batch_norm.default" and len(viewed) == 1 and axis % len(node.meta["shape"]) == 1:
            _fold_norm(program, tail, reader)
        elif name == "aten.add.Tensor" and (added := _added(program, reader, node, viewed, axis, outputs)) is not None:
            tail.bias = added if tail.bias is None else tail.bias + added
        elif name in VIEWS:
            viewed = [*viewed, reader]
            node = reader
            continue
        else:
            break
        tail.folded.append(reader)
        node = reader
    moving = VIEWS + TURNS + (POOLS if axis == 1 else ())  # a runtime makes codes before it moves or pools them
    while (reader := _only_reader(node)) is not None and reader.op == "call_function" and operation_name(reader.target) in moving:
        node = reader
    if reader is not None and _quantizes(reader):
        tail.quantizer = reader
    tail.splits = len(node.users) > 1 and all(_quantizes(one) for one in node.users)
    return tail


def _quantizes(node: fx.Node) -> bool:
    return node.op == "call_function" and operation_name(node.target) == "stillbit.fake_quantize.default"


def constant_of(program: Program, node: Any) -> Array | None:
    """Return the array that a node reads; None: it is no constant."""
    if isinstance(node, fx.Node) and node.op == "get_attr":
        return constant_array(program.module.get_buffer(str(node.target)))
    return np.asarray(node, np.float32) if isinstance(node, int | float) and not isinstance(node, bool) else None


def _only_reader(node: fx.Node) -> fx.Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 else None


def _fold_norm(program: Program, tail: Tail, norm: fx.Node) -> None:
    gamma, beta, mean, variance = (constant_of(program, one) for one in norm.args[1:5])
    assert mean is not None
    assert variance is not None
    epsilon = norm.args[7]
    assert isinstance(epsilon, float)
    factor = 1.0 / np.sqrt(variance.astype(np.float64) + epsilon)
    if gamma is not None:
        factor = factor * gamma
    bias = (0.0 if tail.bias is None else tail.bias) - mean.astype(np.float64)
    tail.bias = bias * factor + (0.0 if beta is None else beta)
    tail.factor = factor if tail.factor is None else tail.factor * factor


def _added(program: Program, add: fx.Node, node: fx.Node, viewed: list[fx.Node], axis: int, outputs: int) -> Array | None:
    """Return a constant that an addition adds, if it is one number per output channel of the layer; else None."""
    if add.kwargs.get("alpha", 1) != 1:
        return None
    other = add.args[1] if add.args[0] is node else add.args[0]
    constant = constant_of(program, other)
    if constant is None or not isinstance(other, fx.Node):
        return None
    shape: Shape = node.meta["shape"]
    if constant.ndim > len(shape) or tuple(add.meta["shape"]) != tuple(shape):
        return None
    # Along axes that the constant does not vary along, one place is enough.
    constant = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    origin: Shape = viewed[0].meta["shape"]
    if len(viewed) == 1:
        return _by_channel(constant, axis % len(origin), outputs)
    if axis % len(origin) != len(origin) - 1:
        return None
    # Views behind a layer whose channels come last split these, as (B, N, h C) to (B, N, h, C): the last axes together are the channels.
    last, size = len(shape), 1
    while size < outputs and last > 0:
        last -= 1
        size *= shape[last] or 1
    if size != outputs or any(one != 1 for one in constant.shape[:last]):
        return None
    tail = tuple(one or 1 for one in shape[last:])
    return np.broadcast_to(constant.reshape(constant.shape[last:]), tail).reshape(-1).astype(np.float64)


def _by_channel(constant: Array, axis: int, outputs: int) -> Array | None:
    if any(size != 1 for place, size in enumerate(constant.shape) if place != axis):
        return None
    return np.broadcast_to(constant.reshape(-1), (outputs,)).astype(np.float64)
