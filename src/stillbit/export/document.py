"""A program as plain lists and dicts, for JSON, and back. What is read may come from anywhere: it names operations, and runs nothing.

Only PyTorch's own operations (`aten`), the two of ops.py and the operators of a literal list are written and read. An operation that
writes to its arguments, or takes a text that is no option (the name of a file), is refused; so is a name that is more than a name.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from stillbit.errors import ExportError
from stillbit.export import ops as _ops  # noqa: F401 - registers the operations
from stillbit.export.program import Call, Program, Reference, build_program, operation_name

_OWN = ("stillbit.dequantize.default", "stillbit.fake_quantize.default")
_OPERATORS: dict[str, Callable[..., Any]] = {
    f"operator.{one.__name__}": one
    for one in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.neg, operator.getitem)
}
_TEXTS = {"approximate", "driver", "equation", "indexing", "interpolation", "mode", "norm", "ord", "padding", "reduce", "rounding_mode"}
_OPERATION = re.compile(r"aten\.(\w+)\.(\w+)", re.ASCII)
_PART = re.compile(r"(?!__)[\w+:/ -]+")  # of a tensor's name between two dots; fx writes names into Python code
_IDENTIFIER = re.compile(r"[a-zA-Z_]\w*", re.ASCII)  # of a result or a keyword; they stand in that code as they are
_KINDS = {"dtype": torch.dtype, "device": torch.device, "layout": torch.layout, "memory_format": torch.memory_format}
_DEVICES = ("cpu",)


def to_document(program: Program) -> dict[str, Any]:
    """Return a program's calls; its tensors are stored apart."""
    graph, calls, output = program.module.graph, [], None
    for node in graph.nodes:
        if node.op == "call_function":
            calls.append(_written_call(node))
        elif node.op == "get_attr":
            checked_name(str(node.target))
        elif node.op == "output":
            output = _written(node.args[0], "the output")
    return {"input_shape": list(program.input_shape), "calls": calls, "output": output}


def tensor_names(program: Program) -> set[str]:
    """Return the names of the tensors that a program reads."""
    return {str(node.target) for node in program.module.graph.nodes if node.op == "get_attr"}


def from_document(document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Program:
    """Make a program of what `to_document` gave."""
    try:
        reader = _Reader(tensors)
        calls = [reader.call(one) for one in document["calls"]]
        output = reader.value(document["output"])
        used = {name: tensors[checked_name(name)] for name in reader.used}
        return build_program(calls, used, output, tuple(int(size) for size in document["input_shape"]))
    except ExportError:
        raise
    except Exception as error:  # what is no program fails anywhere, in our code or in fx
        raise ExportError(f"a program that cannot be read ({type(error).__name__}: {str(error).partition(chr(10))[0]})") from error


def checked_name(name: str) -> str:
    """Return the name of a tensor back."""
    if not all(_PART.fullmatch(part) for part in name.split(".")):
        raise ExportError(f"tensor {name!r}: not a name that can be stored; allowed: letters, digits, _ + : / - and spaces between dots")
    return name


def operation(name: str) -> Callable[..., Any]:
    """Return the operation of a name, e.g. "aten.conv2d.default" or "operator.mul"."""
    if name in _OPERATORS:
        return _OPERATORS[name]
    if name not in _OWN and not _OPERATION.fullmatch(name):
        raise ExportError(f"operation {name}: not allowed in a program; allowed: aten's, stillbit's, {', '.join(_OPERATORS)}")
    namespace, packet, overload = name.split(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except (AttributeError, RuntimeError) as error:
        raise ExportError(f"operation {name}: torch {torch.__version__} has none such") from error
    if not isinstance(found, torch._ops.OpOverload) or not _harmless(found._schema, own=name in _OWN):
        raise ExportError(f"operation {name}: not allowed in a program, because it does more than compute a result")
    return found


def _harmless(schema: Any, *, own: bool) -> bool:
    texts = {argument.name for argument in schema.arguments if "str" in str(argument.type)}
    return not schema.is_mutable and (own or texts <= _TEXTS)


def _written_call(node: fx.Node) -> dict[str, Any]:
    assert callable(node.target)
    name = operation_name(node.target)
    if operation(name) is not node.target:
        raise ExportError(f"operation {name} of layer {node.meta['layer']!r}: another one than PyTorch's")
    call: dict[str, Any] = {"name": node.name, "operation": name, "arguments": [_written(one, name) for one in node.args]}
    if node.kwargs:
        call["keywords"] = {key: _written(one, name) for key, one in node.kwargs.items()}
    if node.meta["layer"]:
        call["layer"] = node.meta["layer"]
    if "shape" in node.meta:
        call["shape"] = list(node.meta["shape"])
    return call


def _written(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"tensor": str(value.target)} if value.op == "get_attr" else {"result": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_written(one, where) for one in value]}
    if isinstance(value, list):
        return [_written(one, where) for one in value]
    for kind, type_ in _KINDS.items():
        if isinstance(value, type_):
            return {kind: str(value).removeprefix("torch.")}
    raise ExportError(f"operation {where}: an argument of type {type(value).__name__} cannot be written")


class _Reader:
    """Reads calls in order; each may refer to those before it."""

    def __init__(self, tensors: Iterable[str]) -> None:
        self._tensors = set(tensors)
        self._results = {"x"}
        self.used: dict[str, None] = {}

    def call(self, call: dict[str, Any]) -> Call:
        name = _identifier(call["name"])
        if name in self._results or name in self._tensors:
            raise ExportError(f"a program that cannot be read: {name} stands for two things")
        arguments = tuple(self.value(one) for one in call["arguments"])
        keywords = {_identifier(key): self.value(one) for key, one in call.get("keywords", {}).items()}
        shape = tuple(None if size is None else int(size) for size in call["shape"]) if "shape" in call else None
        self._results.add(name)
        return Call(name, operation(str(call["operation"])), arguments, keywords, str(call.get("layer", "")), shape)

    def value(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return [self.value(one) for one in value]
        ((kind, content),) = value.items()
        if kind == "tensor" and content in self._tensors:
            self.used[content] = None
            return Reference(content)
        if kind == "result" and content in self._results:
            return Reference(content)
        if kind in ("tensor", "result"):
            raise ExportError(f"a program that cannot be read: there is no {kind} {content!r}")
        if kind == "tuple":
            return tuple(self.value(one) for one in content)
        return _constant(kind, content)


def _identifier(name: Any) -> str:
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise ExportError(f"a program that cannot be read: {name!r} is not the name of a result or keyword")
    return name


def _constant(kind: str, content: Any) -> Any:
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if kind == "device" and content in _DEVICES:
        return torch.device(content)
    if kind in ("dtype", "layout", "memory_format"):
        found = getattr(torch, str(content), None)
        if isinstance(found, _KINDS[kind]):
            return found
    raise ExportError(f"argument {kind} {content!r}: not allowed in a program")
