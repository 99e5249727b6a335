"""The layers of a program: each product of weights and activations, or of two activations, its size, and where its operands come from."""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from stillbit.export.program import Program, arguments, operation_name

# Operations that move or choose elements: what they give lies on the grid that their first argument lies on.
_MOVES = (
    *("chunk", "clone", "contiguous", "expand", "flatten", "getitem", "index", "index_select", "mT", "max_pool1d", "max_pool2d", "movedim"),
    *("narrow", "pad", "permute", "repeat", "reshape", "roll", "select", "slice", "split", "squeeze", "swapaxes", "t", "tensor_split"),
    *("transpose", "unflatten", "unsqueeze", "view"),
)
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = {"conv_transpose1d": 6, "conv_transpose2d": 6}  # where the number of groups stands
_PRODUCTS = ("matmul", "mm", "bmm")


@dataclass(frozen=True)
class Operand:
    """What an activation quantizer gives to a layer.

    Attributes:
        quantizer: Name of the quantizer.
        low: Smallest code.
        high: Largest code.
    """

    quantizer: str
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Width of the codes."""
        return (self.high - self.low).bit_length()


@dataclass(frozen=True)
class LayerInfo:
    """One product of a program.

    Attributes:
        node: Name of the call.
        layer: Name of the module that it came from.
        kind: The operation: "conv2d", "linear", "matmul", "bmm".
        weight: Name of the weight's quantizer; None: a float weight, or a product of activations.
        bits: Width of the weight, 32: float; None: a product of activations.
        weights: Number of weights.
        macs: Multiplications per input.
        accumulations: Products that are summed for one output.
        groups: Of a convolution; else 1.
        operands: The quantizers that its activations come from, in order; None: float.
    """

    node: str
    layer: str
    kind: str
    weight: str | None
    bits: int | None
    weights: int
    macs: int
    accumulations: int
    groups: int
    operands: tuple[Operand | None, ...]


def layers_of(program: Program) -> list[LayerInfo]:
    """Return the layers of a program in order."""
    shapes = shapes_of(program)
    calls = [node for node in program.module.graph.nodes if node.op == "call_function"]
    return [_layer(node, shapes) for node in calls if is_product(node)]


def shapes_of(program: Program, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all results for a batch of that size, by name of the node; nothing is computed."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        recorder = _Shapes(program.module)
        recorder.run(mode.from_tensor(torch.zeros(batch, *program.input_shape)))
    return recorder.shapes


def is_product(node: fx.Node) -> bool:
    """Return whether a node multiplies: a convolution, a linear layer, or a product of matrices."""
    return node.op == "call_function" and operation_of(node) in (*_CONVOLUTIONS, *_TRANSPOSED, "linear", *_PRODUCTS)


def source_of(node: fx.Node) -> fx.Node:
    """Return where elements come from, past all operations that only move them or add a constant."""
    while True:
        operation = operation_of(node)
        arguments = [one for one in node.args[:2] if isinstance(one, fx.Node)]
        if operation in _MOVES:
            node = arguments[0]
        elif operation == "add" and sum(one.op != "get_attr" for one in arguments) == 1 and len(arguments) == 2:
            node = next(one for one in arguments if one.op != "get_attr")
        else:
            return node


def operation_of(node: fx.Node) -> str:
    """Return the name of a call without namespace and overload, "conv2d"; of another node, its kind.

    >>> operation_of(fx.Graph().call_function(torch.ops.aten.relu.default))
    'relu'
    """
    if node.op != "call_function":
        return node.op
    assert callable(node.target)
    return operation_name(node.target).split(".")[1]


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result


def _layer(node: fx.Node, shapes: dict[str, tuple[int, ...]]) -> LayerInfo:
    kind = operation_of(node)
    factors = [one for one in node.args[:2] if isinstance(one, fx.Node)]
    sources = [source_of(one) for one in factors]
    of_weight = [source.op == "get_attr" or operation_of(source) == "dequantize" for source in sources]
    operands = tuple(_operand(source) for source, fixed in zip(sources, of_weight, strict=True) if not fixed)
    weight = next((source for source, fixed in zip(sources, of_weight, strict=True) if fixed), None)
    width = next((shapes[factor.name] for factor, fixed in zip(factors, of_weight, strict=True) if fixed), ())
    quantized = weight is not None and weight.op == "call_function"
    accumulations, macs = _sizes(kind, shapes[factors[0].name], shapes[factors[1].name], shapes[node.name])
    return LayerInfo(
        node=node.name,
        layer=str(node.meta["layer"]),
        kind=kind,
        weight=arguments(weight)["label"] if quantized and weight is not None else None,
        bits=None if weight is None else arguments(weight)["bits"] if quantized else 32,
        weights=0 if weight is None else prod(width),
        macs=macs,
        accumulations=accumulations,
        groups=_groups(kind, node),
        operands=operands,
    )


def _operand(source: fx.Node) -> Operand | None:
    if operation_of(source) != "fake_quantize":
        return None
    return Operand(arguments(source)["label"], arguments(source)["low"], arguments(source)["high"])


def _groups(kind: str, node: fx.Node) -> int:
    position = 6 if kind in _CONVOLUTIONS else _TRANSPOSED.get(kind)
    return 1 if position is None or len(node.args) <= position else int(str(node.args[position]))


def _sizes(kind: str, left: tuple[int, ...], right: tuple[int, ...], output: tuple[int, ...]) -> tuple[int, int]:
    """Return the products summed for an output, and all products."""
    if kind in _CONVOLUTIONS:
        return prod(right[1:]), prod(right[1:]) * prod(output)
    if kind in _TRANSPOSED:  # weight (in, out / groups, ...): every input meets all of its row
        return right[0] * prod(right[2:]), prod(left) * prod(right[1:])
    return left[-1], left[-1] * prod(output)
