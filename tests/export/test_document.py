"""Programs as JSON, and what is refused when one is read."""

import json
import operator
from typing import Any

import pytest
import torch

from stillbit.errors import ExportError
from stillbit.export import capture
from stillbit.export.document import from_document, operation, to_document
from stillbit.export.program import Call, Program, Reference, build_program
from tests.export.networks import MODELS, image


def through_json(program: Program) -> Program:
    return from_document(json.loads(json.dumps(to_document(program), allow_nan=False)), program.tensors())


@pytest.mark.parametrize("name", ["mobilenet-hard_swish", "swin-qkr_token", "plain-W4A32"])
def test_a_program_comes_back(name: str) -> None:
    program = capture(MODELS[name](), image())
    back = through_json(program)
    assert back.input_shape == program.input_shape
    assert [(node.name, node.op, node.target, node.meta) for node in back.module.graph.nodes] == [
        (node.name, node.op, node.target, node.meta) for node in program.module.graph.nodes
    ]
    assert str(back.module.graph) == str(program.module.graph)
    assert torch.equal(back(image(3)), program(image(3)))


def one_call(target: Any, *arguments: Any, **keywords: Any) -> Program:
    call = Call("made", target, (Reference("x"), *arguments), keywords, "", (None, 2))
    return build_program([call], {}, [Reference("made"), Reference("x")], (2,))


@pytest.mark.parametrize(
    ("target", "arguments", "keywords"),
    [
        pytest.param(torch.ops.aten.hardtanh.default, (0.0, float("inf")), {}, id="infinite"),
        pytest.param(torch.ops.aten.view.default, ((-1, 1, 2),), {}, id="tuple"),
        pytest.param(torch.ops.aten.to.dtype_layout, (), {"dtype": torch.int8, "layout": torch.strided}, id="dtype"),
        pytest.param(torch.ops.aten.to.device, (torch.device("cpu"), torch.float64), {}, id="device"),
        pytest.param(torch.ops.aten.contiguous.default, (), {"memory_format": torch.contiguous_format}, id="memory_format"),
        pytest.param(torch.ops.aten.add.Scalar, (1e-7,), {}, id="small"),
    ],
)
def test_arguments_come_back(target: Any, arguments: Any, keywords: Any) -> None:
    program = one_call(target, *arguments, **keywords)
    back = through_json(program)
    made = next(node for node in back.module.graph.nodes if node.op == "call_function")
    assert made.args[1:] == arguments
    assert made.kwargs == keywords
    x = torch.tensor([[-1.5, 8.0]])
    for found, expected in zip(back.module(x), program.module(x), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.system.default", "not allowed in a program"),
        ("operator.pow", "not allowed in a program"),
        ("operator.attrgetter", "not allowed in a program"),
        ("builtins.eval", "not allowed in a program"),
        ("prim.device.default", "not allowed in a program"),
        ("aten.from_file.default", "does more than compute a result"),
        ("aten.save.default", "does more than compute a result"),
        ("aten._print.default", "does more than compute a result"),
        ("aten.copy_.default", "does more than compute a result"),
        ("aten.add.out", "does more than compute a result"),
        ("aten.__class__.__init__", "has none such|does more"),
        ("aten.no_such.default", "has none such"),
        ("stillbit.other.default", "not allowed in a program"),
    ],
)
def test_operations_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        operation(name)
    assert name in str(caught.value)


def document(**changes: Any) -> dict[str, Any]:
    call = {"name": "made", "operation": "aten.relu.default", "arguments": [{"result": "x"}]}
    return {"input_shape": [2], "calls": [call | changes], "output": {"result": "made"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": [{"tensor": "w"}]}, "there is no tensor 'w'"),
        ({"arguments": [{"result": "later"}]}, "there is no result 'later'"),
        ({"arguments": [{"device": "cuda"}]}, "argument device 'cuda': not allowed"),
        ({"arguments": [{"dtype": "load"}]}, "argument dtype 'load': not allowed"),
        ({"arguments": [{"object": "a"}]}, "argument object 'a': not allowed"),
        ({"name": "a); print("}, "is not the name of a result or keyword"),
        ({"keywords": {"a=1, b": 2}}, "is not the name of a result or keyword"),
        ({"name": "x"}, "x stands for two things"),
        ({"arguments": 3}, "a program that cannot be read"),
        ({"arguments": [{"tensor": 'a"), print("'}]}, "not a name that can be stored"),
        ({"arguments": [{"tensor": "__class__.a"}]}, "not a name that can be stored"),
    ],
)
def test_documents_that_are_refused(changes: dict[str, Any], message: str) -> None:
    tensors = {'a"), print("': torch.zeros(2), "__class__.a": torch.zeros(2)}
    with pytest.raises(ExportError, match=message) as caught:
        from_document(document(**changes), tensors)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(ExportError, match=r"operation operator.matmul: not allowed in a program"):
        to_document(one_call(operator.matmul, 3))
    with pytest.raises(ExportError, match=r"operation aten.relu.default: an argument of type slice cannot be written"):
        to_document(one_call(torch.ops.aten.relu.default, slice(None)))
    tensors = {"a'b": torch.zeros(2)}
    calls = [Call("made", torch.ops.aten.relu.default, (Reference("a'b"),), {}, "", (2,))]
    with pytest.raises(ExportError, match="not a name that can be stored"):
        to_document(build_program(calls, tensors, Reference("made"), (2,)))
