"""Programs of torch.export: PyTorch's own operations alone, so that a file runs where stillbit is not installed."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as trees

from stillbit.errors import ExportError
from stillbit.export.capture import capture
from stillbit.export.program import Program, operation_name
from stillbit.files import write_whole

DESCRIPTION = "stillbit.json"  # the entry of the file that says where it comes from


def export_program(
    model: nn.Module,
    path: Path | str,
    *,
    example: Tensor,
    recipe: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> ExportedProgram:
    """Write a trained network as a program of torch.export, which `torch.export.load` reads without stillbit. The batch is free.

    Weights are stored as int8 or uint8 codes. The file is read again, and run on batches of 1 and 3, before it takes its name.

    Args:
        model: A prepared model with ranges; stays as it is.
        path: The file, by custom NAME.pt2; one that is there is replaced.
        example: An input, as `capture` takes it.
        recipe: What the network was trained with; this and the rest of JSON's types, in the file's extra entry "stillbit.json".
        preprocessing: From an image to the input.
        classes: Names of the outputs.

    Returns:
        The program as the file gives it.

    Raises:
        ExportError: If the model cannot be exported, what is written computes something else, or the file cannot be written; then there
            is none, or the old one.
    """
    path = Path(path)
    program = capture(model, example)
    description = {
        "stillbit": metadata.version("stillbit"),
        "recipe": None if recipe is None else dict(recipe),
        "preprocessing": None if preprocessing is None else dict(preprocessing),
        "classes": None if classes is None else list(classes),
    }
    try:
        text = json.dumps(description, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{path}: its description cannot be written as JSON: {error}") from error
    content = io.BytesIO()
    torch.export.save(plain(program), content, extra_files={DESCRIPTION: text})
    written: list[ExportedProgram] = []
    write_whole(path, content.getvalue(), lambda temporary: written.append(_checked(temporary, path, program, example)))
    return written[0]


def plain(program: Program) -> ExportedProgram:
    """Return a program in PyTorch's own operations alone: the two of ops.py become the arithmetic that they are."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.module.graph, {}))
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _PLAIN.get(operation_name(node.target), node.target)
    batch = torch.zeros(2, *program.input_shape)  # of two: one alone would be taken for fixed
    network = fx.GraphModule(program.module, graph)
    exported = torch.export.export(network, (batch,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    exported.example_inputs = None  # a file needs no image
    return exported


def _fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float, low: int, high: int, clip: list[float] | None, label: str
) -> Tensor:
    """Do what `torch.ops.stillbit.fake_quantize` does, operation by operation."""
    del label
    latent = x if clip is None else torch.nn.functional.hardtanh(x, clip[0], clip[1])
    position = latent / scale
    codes = torch.round(position - shift if shift else position)
    codes = (codes if zero_point is None else codes + zero_point).clamp(low, high)
    return _values(codes, scale, zero_point, shift)


def _dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float, bits: int, label: str) -> Tensor:
    """Do what `torch.ops.stillbit.dequantize` does."""
    del bits, label
    return _values(codes.to(scale.dtype), scale, zero_point, shift)


def _values(codes: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float) -> Tensor:
    offset = codes if zero_point is None else codes - zero_point
    return scale * (offset + shift if shift else offset)


_PLAIN = {"stillbit.fake_quantize.default": _fake_quantize, "stillbit.dequantize.default": _dequantize}


def _checked(temporary: Path, path: Path, program: Program, example: Tensor) -> ExportedProgram:
    with warnings.catch_warnings():
        # torch 2.9 reads tensors out of bytes, and warns of itself.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        loaded = torch.export.load(temporary)
    network, one = loaded.module(), example.detach().cpu()[:1]
    for batch in (one, torch.cat([one, -one, 2 * one])):
        with torch.no_grad():
            found, expected = (trees.tree_leaves(each(batch)) for each in (network, program))
        if not all(torch.allclose(left, right, rtol=0, atol=0, equal_nan=True) for left, right in zip(found, expected, strict=True)):
            raise ExportError(f"{path}: not written, because what torch.export gives computes something else; please report this")
    return loaded
