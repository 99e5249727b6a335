"""Goes through a program, operation by operation, and puts an ONNX graph together.

Codes stay codes as long as operations only move them; they become floats (DequantizeLinear) where something computes. A runtime sees the
pattern quantize, clip, dequantize around each product and runs that on integer kernels (RUNTIMES: Clip stands on the integer side).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from stillbit.errors import ExportError
from stillbit.export.manifest import Activation
from stillbit.export.onnx.builder import Array, Builder
from stillbit.export.onnx.containers import Container
from stillbit.export.onnx.tails import constant_of
from stillbit.export.onnx.value import CodeGrid, Shape, Value, as_float
from stillbit.export.onnx.weights import StoredWeight, Weight
from stillbit.export.program import INPUT, Program, arguments, operation_name

Operation = Callable[["Lowering", fx.Node], Value | str | list[Value] | None]


class Lowering:
    """One program on its way into one graph.

    Attributes:
        builder: The graph.
        program: The program.
        container: How codes of weights are stored.
        exact: Whether a layer runs in floats where no integer kernel gives its exact codes.
        inexact: Weights of these layers.
        values: What stands for each operation done: a value, several, or the name of an int64 tensor for a size.
        folded: Operations that are part of an earlier one.
        finer: Codes times a power of two, by the name of the codes.
        activations: What the manifest says of each quantizer's codes.
        recorded: The quantizers that it does say it of.
        multiplied: The node that multiplies, and the weight, for each layer of the program.
    """

    def __init__(self, program: Program, container: Container, operations: dict[str, Operation], *, exact: bool = False) -> None:
        self.builder = Builder()
        self.program = program
        self.container = container
        self.exact = exact
        self.inexact: list[str] = []
        self.values: dict[fx.Node, Any] = {}
        self.folded: set[fx.Node] = set()
        self.finer: dict[str, str] = {}
        self.activations: list[Activation] = []
        self.recorded: set[fx.Node] = set()
        self.multiplied: dict[str, tuple[str, StoredWeight | None]] = {}
        self._operations = operations

    def run(self) -> list[tuple[str, Shape]]:
        """Lower everything, and return the outputs: names and shapes."""
        for node in self.program.module.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = Value(INPUT, node.meta["shape"])
            elif node.op == "call_function":
                self.values[node] = self._lowered(node)
            elif node.op == "output":
                results = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
                return [(self.float_of(result), result.meta["shape"]) for result in results]
        raise AssertionError("a program has an output")

    def _lowered(self, node: fx.Node) -> Any:
        if node in self.folded:
            return next(self.values[one] for one in node.args if isinstance(one, fx.Node) and one in self.values)
        name = operation_name(node.target)
        if name not in self._operations:
            raise ExportError(
                f"layer {node.meta['layer'] or 'of the model'}: operation {name} has no ONNX form here; allowed: {self._known()}"
            )
        return self._operations[name](self, node)

    def _known(self) -> str:
        kinds = {name.split(".")[1] for name in self._operations if name.startswith("aten.")}
        return ", ".join(sorted(kinds))

    def where(self, node: fx.Node) -> str:
        """Return the name that an operation's nodes begin with."""
        return f"{node.meta['layer'] or 'model'}/{node.name}"

    def value(self, node: Any) -> Value:
        """Return what stands for an operation, or for a constant."""
        if node in self.values:
            found = self.values[node]
            assert isinstance(found, Value)
            return found
        array = self.array(node)
        return Value(self.builder.constant(array, str(node.target)), array.shape)

    def array(self, node: Any) -> Array:
        """Return a constant."""
        found = constant_of(self.program, node)
        assert found is not None, f"{node} is no constant"
        return found

    def is_constant(self, node: Any) -> bool:
        """Whether a node reads a tensor that is stored."""
        return isinstance(node, fx.Node) and node.op == "get_attr"

    def float_of(self, node: Any, where: str | None = None) -> str:
        """Return the name of a tensor's values."""
        if isinstance(node, fx.Node):
            return as_float(self.builder, self.value(node), where or self.where(node))
        return self.builder.constant(float(node), "number")

    def weight(self, node: Any) -> Weight | None:
        """Return the weight that a node makes of codes, outputs first; None for any other node."""
        if not isinstance(node, fx.Node) or node.op != "call_function" or operation_name(node.target) != "stillbit.dequantize.default":
            return None
        codes, scale, zero_point, shift, bits, label = node.args
        array, sizes = self.array(codes), self.array(scale).astype(np.float64)
        outputs = array.shape[0]
        if sizes.size not in (1, outputs):
            return None
        offset = None if zero_point is None else np.broadcast_to(self.array(zero_point).reshape(-1), (outputs,)).astype(np.int32)
        assert isinstance(shift, float)
        assert isinstance(bits, int)
        return Weight(array, np.broadcast_to(sizes.reshape(-1), (outputs,)), offset, shift, bits, str(label))

    def record_layer(self, node: fx.Node, multiplying: str, stored: StoredWeight | None = None) -> None:
        """Note for the manifest which ONNX node multiplies for a layer, and what stands for its codes."""
        self.multiplied[node.name] = (multiplying, stored)


def quantize(lowering: Lowering, source: str, rank: int, node: fx.Node, *, turned: tuple[int, ...] = ()) -> tuple[str, CodeGrid]:
    """Put float values onto a quantizer's grid.

    Returns:
        Name of the uint8 codes, and their grid.
    """
    builder, label = lowering.builder, str(node.args[7])
    grid = grid_of(lowering, node, rank)
    axes = [axis for axis, size in enumerate(grid.scale.shape) if size > 1]
    if grid.offset.size > 1:
        raise ExportError(f"quantizer {label} has several zero points; allowed: one")
    if axes in ([], [1]):
        scale = grid.scale.reshape(-1) if axes else grid.scale.reshape(())
        axis: dict[str, Any] = {"axis": axes[0]} if axes else {}
    else:  # the division by hand: QuantizeLinear has one axis; OpenVINO's is that of channels, and ONNX Runtime is slow along others
        source = builder.add("Div", [source, builder.constant(grid.scale, "scale")], f"{label}/divide")
        scale, axis = np.ones((), np.float32), {}
    zeros = np.full(scale.shape, grid.offset.reshape(()), np.uint8)
    inputs = [source, builder.constant(scale, "scale"), builder.constant(zeros, "zero_point")]
    name = builder.add("QuantizeLinear", inputs, f"{label}/quantize", **axis)
    if (grid.low, grid.high) != (0, 255):
        limits = [builder.constant(np.array(limit, np.uint8), "limit") for limit in (grid.low, grid.high)]
        name = builder.add("Clip", [name, *limits], f"{label}/clip")
    record_codes(lowering, name, node, turned)
    return name, grid


def record_codes(lowering: Lowering, name: str, node: fx.Node, turned: tuple[int, ...] = ()) -> None:
    """Note for the manifest which ONNX tensor holds a quantizer's codes; `turned` as for `quantize`."""
    low, high = node.args[4:6]
    assert isinstance(low, int)
    assert isinstance(high, int)
    lowering.recorded.add(node)
    # A file's codes begin at 0, whatever the quantizer's do.
    lowering.activations.append(Activation(str(node.args[7]), name, -low, low, high, (high - low).bit_length(), turned or None))


def grid_of(lowering: Lowering, node: fx.Node, rank: int) -> CodeGrid:
    """Return the grid of a quantizer in the file: uint8 codes, and the activation function that is folded into it as limits."""
    given = arguments(node)
    scale, low, high, clip = lowering.array(given["scale"]), given["low"], given["high"], given["clip"]
    zero_point = _zero_point(lowering, node)
    first, last = low, high
    if clip is not None:
        tensor = torch.from_numpy(scale)
        of_limits = [(torch.tensor(limit) / tensor).round() + zero_point for limit in clip]
        if any(bool((limit != limit.flatten()[0]).any()) for limit in of_limits):
            raise ExportError(f"quantizer {node.args[7]} has several scales behind a folded activation; allowed: fold_activations=False")
        first, last = (int(limit.flatten()[0].clamp(low, high)) for limit in of_limits)
    scale = scale.reshape((1,) * (rank - scale.ndim) + scale.shape) if scale.size > 1 else scale.reshape((1,) * rank)
    offset = np.full((1,) * rank, zero_point - low, np.int32)
    return CodeGrid(scale.astype(np.float32), offset, first - low, last - low)


def _zero_point(lowering: Lowering, node: fx.Node) -> int:
    if node.args[2] is None:
        return 0
    points = lowering.array(node.args[2])
    if bool((points != points.flat[0]).any()):
        raise ExportError(f"quantizer {node.args[7]} has several zero points; allowed: one")
    return int(points.flat[0])
