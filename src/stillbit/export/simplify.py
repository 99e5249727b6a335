"""From what torch.export traced to a program: constants computed, operations that do nothing left out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from stillbit.errors import ExportError
from stillbit.export.activations import fold_activations
from stillbit.export.program import INPUT, Call, Program, Reference, build_program, map_references, operation_name, references

_KEPT = "stillbit.dequantize.default"  # a constant, but its codes are what is stored
_SMALL = 4096  # bytes; what is computed now may be larger than what it is computed from only below


def simplify(exported: ExportedProgram, input_shape: tuple[int, ...]) -> Program:
    """Make a program of a trace.

    Left out are: what the output does not need; dropout, conversions and slices that change nothing. What does not depend on the input
    is computed now and becomes a tensor of its own, unless that would store more bytes (position biases of windows). An operation
    in place becomes the one that gives a new tensor. Activation functions before quantizers become part of them (activations.py).
    """
    return _Simplifier(exported).program(input_shape)


class _Simplifier:
    def __init__(self, exported: ExportedProgram) -> None:
        self._graph = exported.graph
        self._now: dict[fx.Node, Reference | Any] = {}  # what stands for a node; of an operation in place, for its argument too
        self._tensors: dict[str, Tensor] = {}
        self._calls: list[Call] = []
        self._taken: set[str] = {INPUT}  # names of the input, of tensors and the modules that hold them, of calls
        self._place_inputs(exported)

    def program(self, input_shape: tuple[int, ...]) -> Program:
        needed = _needed(self._graph)
        for node in self._graph.nodes:
            if node.op == "get_attr" and node in needed:  # of torch.cond, or a change of autocast within the network
                region = next(iter(node.users))
                raise ExportError(
                    f"layer {_layer(region)!r} runs a region of its own ({region.name}); allowed: operations one after another"
                )
            if node.op == "call_function" and node in needed:
                self._now[node] = self._translate(node)
        (output,) = (node for node in self._graph.nodes if node.op == "output")
        outputs = self._resolved(output.args[0])
        result = outputs[0] if len(outputs) == 1 else outputs
        calls = fold_activations(_reached(self._calls, result), self._tensors, result)
        used = {name for call in calls for name in references((call.arguments, dict(call.keywords)))} | set(references(result))
        return build_program(calls, {name: tensor for name, tensor in self._tensors.items() if name in used}, result, input_shape)

    def _place_inputs(self, exported: ExportedProgram) -> None:
        placeholders = [node for node in self._graph.nodes if node.op == "placeholder"]
        stored = {**exported.constants, **exported.state_dict}
        for spec in exported.graph_signature.input_specs:
            parts = (spec.target or "").split(".")
            self._taken.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
        for node, spec in zip(placeholders, exported.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self._now[node] = Reference(INPUT)
            else:
                assert spec.target is not None
                name = spec.target if spec.target != INPUT else self._free(INPUT)
                self._now[node] = self._constant(name, stored[spec.target])

    def _free(self, name: str) -> str:
        """Return the name, or one like it: a parameter may be called as an operation is, or as the input."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _translate(self, node: fx.Node) -> Any:
        target, arguments, keywords = _functional(node.target), self._resolved(node.args), self._resolved(node.kwargs)
        name = operation_name(target)
        if _does_nothing(name, node, arguments):
            return arguments[0]
        mutated = node.args[0] if target is not node.target else None
        result = self._computed(node, target, arguments, keywords) if self._is_constant(name, arguments, keywords) else None
        if result is None:
            result = Reference(self._free(node.name))
            self._calls.append(Call(result.name, target, tuple(arguments), keywords, _layer(node), _shape(node)))
        if isinstance(mutated, fx.Node):
            self._now[mutated] = result
        return result

    def _is_constant(self, name: str, arguments: Any, keywords: Any) -> bool:
        return name != _KEPT and all(one in self._tensors for one in references((tuple(arguments), keywords)))

    def _computed(self, node: fx.Node, target: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
        def read(reference: Reference) -> Tensor:
            return self._tensors[reference.name]

        result = target(*map_references(arguments, read), **map_references(keywords, read))
        if isinstance(result, Tensor):
            if result.nbytes > max(_SMALL, sum(self._tensors[one].nbytes for one in references((arguments, keywords)))):
                return None
            layer = _layer(node)
            return self._constant(self._free(f"{layer}.{node.name}" if layer else node.name), result)
        if isinstance(result, tuple | list) and all(isinstance(one, Tensor) for one in result):
            return [self._constant(self._free(f"{node.name}_{index}"), one) for index, one in enumerate(result)]
        return result

    def _constant(self, name: str, tensor: Tensor) -> Reference:
        self._tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        return Reference(name)

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self._now[value]
        if isinstance(value, tuple | list):
            return [self._resolved(one) for one in value]
        if isinstance(value, dict):
            return {key: self._resolved(one) for key, one in value.items()}
        return value


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that the output depends on; an operation in place counts for what reads its argument later."""
    changed_by: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and _functional(node.target) is not node.target:
            changed_by.setdefault(node.args[0], []).append(node)
    waiting, needed = [node for node in graph.nodes if node.op == "output"], set()
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += [*node.all_input_nodes, *changed_by.get(node, ())]
    return needed


def _reached(calls: list[Call], output: Any) -> list[Call]:
    """Leave out the calls that nothing reads any more."""
    wanted, kept = set(references(output)), []
    for call in reversed(calls):
        if call.name in wanted:
            kept.append(call)
            wanted.update(references((call.arguments, dict(call.keywords))))
    return kept[::-1]


def _functional(target: Any) -> Any:
    """Return the form of an in-place operation that gives a new tensor, and any other operation as it is."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return target
    packet = target._schema.name.removeprefix("aten::")
    if not packet.endswith("_") or packet.endswith("__"):
        return target
    return getattr(getattr(torch.ops.aten, packet[:-1]), target._overloadname)


def _does_nothing(name: str, node: fx.Node, arguments: Any) -> bool:
    operation = name.removeprefix("aten.").partition(".")[0]
    if operation in ("dropout", "feature_dropout"):
        return arguments[2] is False
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    before, after = node.args[0].meta["val"], node.meta["val"]
    if operation in ("alias", "detach", "lift_fresh_copy", "to"):  # not contiguous and clone: views behind them depend on the memory order
        return bool(before.dtype == after.dtype)
    if operation in ("slice", "expand", "view", "reshape", "flatten"):
        return tuple(map(str, before.shape)) == tuple(map(str, after.shape)) and (operation != "slice" or len(arguments) < 5)
    return False


def _layer(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]).removeprefix("L['self'].") if paths else ""


def _shape(node: fx.Node) -> tuple[int | None, ...] | None:
    value = node.meta.get("val")
    return tuple(size if isinstance(size, int) else None for size in value.shape) if isinstance(value, Tensor) else None
