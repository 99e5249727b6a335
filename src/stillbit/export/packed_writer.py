"""Packed files written: codes at their true width, everything else as it is, and a model card next to them."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from stillbit.errors import ExportError
from stillbit.export.capture import capture
from stillbit.export.card import check_card, write_card
from stillbit.export.document import tensor_names, to_document
from stillbit.export.packed_container import Content, write_content
from stillbit.export.packed_model import PackedModel, load_packed
from stillbit.export.program import Program, operation_name
from stillbit.prepare.size import float_bytes
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import weight_sites


def export_packed(
    model: nn.Module,
    path: Path | str,
    *,
    example: Tensor,
    recipe: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    accuracy: Mapping[str, float] | None = None,
) -> PackedModel:
    """Write a trained network as one safetensors file whose size is that of its bits, and a model card, NAME.md, next to it.

    The file is read again and run on the example before it takes its name.

    Args:
        model: A prepared model with ranges; stays as it is.
        path: The file, by custom NAME.safetensors; one that is there is replaced.
        example: An input, as `capture` takes it.
        recipe: What the network was trained with; this and the rest of JSON's types.
        preprocessing: From an image to the input.
        classes: Names of the outputs.
        accuracy: Shares by name, e.g. {"top1": 0.712}, for the card.

    Returns:
        The network as the file gives it.

    Raises:
        ExportError: If the model cannot be exported, or the file cannot be written; then there is none, or the old one.
    """
    path = Path(path)
    check_card(path)
    program = capture(model, example)
    content = _content(
        model,
        program,
        recipe=None if recipe is None else dict(recipe),
        preprocessing=None if preprocessing is None else dict(preprocessing),
        classes=None if classes is None else list(classes),
        accuracy=None if accuracy is None else dict(accuracy),
    )
    written: list[PackedModel] = []
    write_content(path, content, _widths(program), lambda temporary: written.append(_checked(temporary, path, program, example)))
    (packed,) = written
    write_card(path, packed)
    return packed


def _content(model: nn.Module, program: Program, **given: Any) -> Content:
    tensors = {name: tensor for name, tensor in program.tensors().items() if name in tensor_names(program)}
    entries = _entries(model, set(tensors))
    # The program's names are those of the state or new ones; a tensor of both is one tensor.
    assert all(name not in tensors or _equal(tensors[name], tensor) for name, tensor in entries.items())
    names = {id(module): name for name, module in model.named_modules()}
    sites = {site.name: f"{names[id(site.quantizer)]}.codes" for site in weight_sites(model)}
    manifest = {
        "versions": {"stillbit": metadata.version("stillbit"), "torch": str(torch.__version__)},
        "network": type(model).__name__,
        "input_shape": list(program.input_shape),
        "float_bytes": float_bytes(model),
        "sites": {site: name for site, name in sites.items() if name in tensors},
        **given,
    }
    return Content(manifest, {"program": to_document(program), "entries": list(entries)}, {**tensors, **entries})


def _entries(model: nn.Module, read: set[str]) -> dict[str, Tensor]:
    """Return the state dict without pins, and without the latents of which codes are all that is needed."""
    sites = weight_sites(model)
    needed = {id(parameter) for site in sites if site.quantizer.bypass for parameter in site.parameters}
    left_out = {id(parameter) for site in sites for parameter in site.parameters} - needed
    pins = {id(module.pins) for module in model.modules() if isinstance(module, Quantizer)}
    entries = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ExportError(f"entry {name} of the model's state is of type {type(tensor).__name__}; allowed: tensors")
        if id(tensor) not in pins and (id(tensor) not in left_out or name in read):
            entries[name] = tensor.detach().cpu()
    return entries


def _widths(program: Program) -> dict[str, int]:
    calls = [node for node in program.module.graph.nodes if node.op == "call_function"]
    weights = [node for node in calls if operation_name(node.target) == "stillbit.dequantize.default"]
    return {str(node.args[0].target): node.args[4] for node in weights}


def _checked(temporary: Path, path: Path, program: Program, example: Tensor) -> PackedModel:
    packed = load_packed(temporary)
    x = example.detach().cpu()
    with torch.no_grad():
        pairs = zip(trees.tree_leaves(packed(x)), trees.tree_leaves(program(x)), strict=True)
        if not all(_equal(found, expected) for found, expected in pairs):
            raise ExportError(f"{path}: not written, because it does not compute what the model does; please report this")
    return packed


def _equal(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left, right) or torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
