"""Puts an ONNX graph together: nodes, tensors stored once, names that are never given twice."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 21  # of the first that knows 4-bit tensors; ONNX Runtime has it since 1.18
IR_VERSION = 10  # that goes with it

Array = NDArray[Any]


class Builder:
    """A graph that grows node by node."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._stored: dict[tuple[str, tuple[int, ...], str], str] = {}
        self._taken: Counter[str] = Counter()

    def name(self, wanted: str) -> str:
        """Return a name that nothing has yet: the wanted one, with a number if need be."""
        self._taken[wanted] += 1
        return wanted if self._taken[wanted] == 1 else self.name(f"{wanted}_{self._taken[wanted] - 1}")

    def constant(self, value: Array | float | int, wanted: str = "constant") -> str:
        """Store a tensor, equal ones once, and return its name. Python's numbers become float32 and int64."""
        known = isinstance(value, np.ndarray | np.generic)
        array = np.asarray(value) if known else np.asarray(value, np.float32 if isinstance(value, float) else np.int64)
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest())
        if key not in self._stored:
            self._stored[key] = self.store(numpy_helper.from_array(array), wanted)
        return self._stored[key]

    def store(self, tensor: onnx.TensorProto, wanted: str) -> str:
        """Store a tensor under a name of its own, and return that."""
        name = self.name(wanted)
        tensor.name, self._tensors[name] = name, tensor
        return name

    def add(
        self, operation: str, inputs: list[str], wanted: str, *, output: str | None = None, named: bool = False, **attributes: Any
    ) -> str:
        """Add a node with one output, and return the output's name.

        Args:
            operation: ONNX's operator.
            inputs: Names of tensors; "" means an optional one that is left out.
            wanted: Name of its output, with a number if need be.
            output: Name of its output, as it stands.
            named: Whether the node itself gets the name of its output. Names are a good part of a small file; products have them, which
                reports name, and slices, which ONNX Runtime 1.19 confuses without.
            attributes: ONNX's.
        """
        name = output or self.name(wanted)
        self._nodes.append(helper.make_node(operation, inputs, [name], name=name if named else None, **attributes))
        return name

    def rename(self, name: str, wanted: str) -> None:
        """Return a node's output another name, for all that read it."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for place, one in enumerate(names):
                    if one == name:
                        names[place] = wanted

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], name: str) -> onnx.ModelProto:
        """Return the model, without the nodes and tensors that nothing reads."""
        wanted, nodes = {output.name for output in outputs}, []
        for node in reversed(self._nodes):
            if wanted & set(node.output):
                nodes.append(node)
                wanted |= set(node.input)
        tensors = [tensor for tensor in self._tensors.values() if tensor.name in wanted]
        graph = helper.make_graph(nodes[::-1], name, inputs, outputs, tensors)
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="stillbit")
        model.ir_version = IR_VERSION
        return model
