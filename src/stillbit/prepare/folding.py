"""Folding: an activation function that only quantizers read becomes part of them (modules/folded.py).

Who reads its output is known from the run of the float model (graph.py), operation by operation, not guessed from the order of modules.
"""

from collections.abc import Iterator

from torch import nn

from stillbit.modules.adopt import replace_module
from stillbit.modules.folded import Foldable, foldable, folded
from stillbit.prepare.graph import Graph, Visit
from stillbit.prepare.outputs import quantize_output
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.tied import TiedQuantizer


def fold_activations(model: nn.Module, graph: Graph, *, balanced: bool) -> None:
    """Fold each ReLU and ReLU6 whose output reaches quantizers and nothing else into these, in place.

    An activation is left alone if a hook of the user's sees its output, if one of its readers also quantizes another tensor, or if a
    reader is tied to a further tensor.

    Args:
        model: A model with all its quantizers.
        graph: The run of the float model that it was prepared from.
        balanced: Save what quantizers give where the float model saves an activation's input too: as many bytes, one pass less.
    """
    activations = {name: found for name, module in model.named_modules() if (found := _foldable(module)) is not None}
    readers = {name: _only_by_quantizers(model, graph, name) for name in activations}
    for name, quantizers in readers.items():
        if not quantizers:
            continue
        for quantizer in quantizers:
            quantizer.prologue = quantizer.prologue._replace(clip=activations[name].clip)
            quantizer.recompute &= not (balanced and activations[name].saves_input)
        activation = model.get_submodule(name)
        replace_module(model, activation, folded(activation))


def _foldable(module: nn.Module) -> Foldable | None:
    seen_by_others = any(hook is not quantize_output for hook in module._forward_hooks.values())
    return None if seen_by_others else foldable(module)


def _only_by_quantizers(model: nn.Module, graph: Graph, activation: str) -> set[Quantizer]:
    """Return the quantizers that read an activation if nothing else does, and they read nothing else; otherwise none."""
    values = set(graph.made_by({activation}))
    visits, calls = graph.readers(values)
    quantizing: dict[str, Quantizer] = {}
    holders = [visit for visit in graph.visits if visit.outputs and visit.outputs[0] in values and _output_quantizer(model, visit)]
    if holders:  # what is quantized on leaving a module is read by others only after it
        quantizers = {quantizer for visit in holders if (quantizer := _output_quantizer(model, visit))}
        names = {visit.module for visit in holders}
        calls = [call for call in calls if any(around in holders for around in _around(call.visit))]
        visits = [visit for visit in visits if any(around in holders for around in _around(visit.around))]
        if not all(visit.outputs[0] in values for visit in graph.visits if visit.module in names):
            return set()
    for visit in visits:
        quantizer = _input_quantizer(model.get_submodule(visit.module))
        if quantizer is not None and visit.inputs[0] in values:
            quantizing[visit.module] = quantizer
        elif not _passes_on(model.get_submodule(visit.module)):
            return set()
    if any(not any(one.module in quantizing and one.inputs[0] in values for one in _around(call.visit)) for call in calls):
        return set()
    if not all(visit.inputs[0] in values for visit in graph.visits if visit.module in quantizing):
        return set()
    found = set(quantizing.values()) | (quantizers if holders else set())
    tied = {module.source for module in model.modules() if isinstance(module, TiedQuantizer)}
    return set() if found & tied else found


def _output_quantizer(model: nn.Module, visit: Visit) -> Quantizer | None:
    quantizer = getattr(model.get_submodule(visit.module), "output_quantizer", None)
    return quantizer if isinstance(quantizer, Quantizer) else None


def _input_quantizer(module: nn.Module) -> Quantizer | None:
    quantizer = getattr(module, "input_quantizer", None)
    return quantizer if isinstance(quantizer, Quantizer) else None


def _passes_on(module: nn.Module) -> bool:
    """Whether a module does nothing by itself with what it reads: what is inside it says who does.

    Dropout and its kin do nothing here, in evaluation, but would in training.
    """
    return type(module) is nn.Identity or any(isinstance(part, Quantizer) for part in module.modules())


def _around(visit: Visit | None) -> Iterator[Visit]:
    """Yield a visit, and those that it happened in."""
    while visit is not None:
        yield visit
        visit = visit.around
