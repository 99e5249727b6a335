"""A program: what a network computes, as PyTorch's operations on named tensors. It needs neither the network's code nor its quantizers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

INPUT = "x"


@dataclass(frozen=True)
class Program:
    """Operations in order, over a plain tree of tensors.

    `module` is called like the network. Its graph has one placeholder, `get_attr` nodes that read tensors, and calls of `aten`
    operations, of Python's operators on sizes, and of the two in ops.py. Each call has in `meta`: "layer", the name of the module that it
    came from, and "shape", a tuple of sizes, None where a size follows from the batch's (absent where a call gives no tensor).

    Attributes:
        module: Buffers in a tree of modules, named as in the network; codes of weights are int8 or uint8 among them.
        input_shape: Shape of an input, without the batch.
    """

    module: fx.GraphModule
    input_shape: tuple[int, ...]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return dict(self.module.state_dict())

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        output: Tensor = self.module(x)
        return output


@dataclass(frozen=True)
class Call:
    """One operation of a program, for those who build one.

    Attributes:
        name: Name of its result.
        target: The operation.
        arguments: Positional; a `Reference` is a result or a tensor.
        keywords: By name, likewise.
        layer: Name of the module that it came from.
        shape: Of the result; None: it is no tensor.
    """

    name: str
    target: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    layer: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Reference:
    """The result of a call, the input, or a tensor, by name."""

    name: str


def build_program(calls: list[Call], tensors: Mapping[str, Tensor], output: Any, input_shape: tuple[int, ...]) -> Program:
    """Make a program of its calls."""
    root, graph = _tree(tensors), fx.Graph()
    nodes: dict[str, fx.Node] = {INPUT: graph.placeholder(INPUT)}
    nodes[INPUT].meta |= {"layer": "", "shape": (None, *input_shape)}

    def node_of(reference: Reference) -> fx.Node:
        if reference.name not in nodes:
            nodes[reference.name] = made = graph.get_attr(reference.name)
            made.meta |= {"layer": "", "shape": tuple(tensors[reference.name].shape)}
        return nodes[reference.name]

    for call in calls:
        arguments = map_references(call.arguments, node_of)
        keywords = map_references(dict(call.keywords), node_of)
        nodes[call.name] = made = graph.create_node("call_function", call.target, arguments, keywords, name=call.name)
        made.meta["layer"] = call.layer
        if call.shape is not None:
            made.meta["shape"] = call.shape
    graph.output(map_references(output, node_of))
    return Program(fx.GraphModule(root, graph), input_shape)


def map_references(value: Any, function: Callable[[Reference], Any]) -> Any:
    """Return nested tuples, lists and dicts with each reference replaced."""
    if isinstance(value, Reference):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)(map_references(one, function) for one in value)
    if isinstance(value, dict):
        return {key: map_references(one, function) for key, one in value.items()}
    return value


def references(value: Any) -> Iterator[str]:
    """Return the names that nested arguments refer to."""
    if isinstance(value, Reference):
        yield value.name
    elif isinstance(value, tuple | list):
        for one in value:
            yield from references(one)
    elif isinstance(value, dict):
        yield from references(list(value.values()))


def _tree(tensors: Mapping[str, Tensor]) -> nn.Module:
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            child = module._modules[part]
            assert child is not None
            module = child
        module.register_buffer(leaf, tensor)
    return root


def operation_name(target: Callable[..., Any] | str) -> str:
    """Return the name of an operation: "aten.conv2d.default", "operator.mul".

    >>> operation_name(torch.ops.aten.relu.default)
    'aten.relu.default'
    """
    return f"operator.{target.__name__}" if callable(target) and not isinstance(target, torch._ops.OpOverload) else str(target)


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return all arguments of an operation of PyTorch by name, defaults included."""
    assert isinstance(node.target, torch._ops.OpOverload)
    given: dict[str, Any] = dict(node.kwargs)
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        given[argument.name] = value
    defaults = {one.name: one.default_value if one.has_default_value() else None for one in node.target._schema.arguments}
    return defaults | given
