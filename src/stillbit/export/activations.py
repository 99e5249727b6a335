"""Activation functions that become part of the quantizers behind them, as in a file that a runtime fuses: the numbers stay, bit for bit.

A runtime computes a product, the activation behind it and the codes behind that in one kernel, with the bias in whole units of its
accumulator. The writer has to see the quantizer that a product ends in, through whatever only moves elements, to choose that bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from stillbit.export.program import Call, Reference, map_references, operation_name, references

_QUANTIZE = "stillbit.fake_quantize.default"
_CLIP = 6  # its place among the arguments of that
_LIMITS = {
    "relu": (0.0, float("inf")),
    "relu6": (0.0, 6.0),
    "hardtanh": (-1.0, 1.0),
    "clamp": (-float("inf"), float("inf")),
}  # where nothing is given
# A pool takes the largest of some elements, which clipping first or last does not change.
_MOVING = ("contiguous", "flatten", "mT", "max_pool2d", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view")


def fold_activations(calls: Sequence[Call], tensors: Mapping[str, Tensor], output: Any) -> list[Call]:
    """Return the calls of a program, without the activations that quantizers alone read, behind movements of elements at most."""
    remaining = {call.name: call for call in calls}
    given_back = set(references(output))
    for call in calls:
        limits = _limits(call)
        if limits is None:
            continue
        quantizers = _readers(call.name, remaining, given_back)
        if not quantizers or not all(_takes(quantizer, limits, tensors) for quantizer in quantizers):
            continue
        for quantizer in quantizers:
            arguments = [*quantizer.arguments[:_CLIP], list(limits), *quantizer.arguments[_CLIP + 1 :]]
            remaining[quantizer.name] = replace(quantizer, arguments=tuple(arguments))
        before = call.arguments[0]
        del remaining[call.name]
        for name, reader in remaining.items():
            remaining[name] = _reading(reader, call.name, before)
    return list(remaining.values())


def _limits(call: Call) -> tuple[float, float] | None:
    """Return the limits that an operation clips to; None for any other."""
    kind = _kind(call)
    if kind not in _LIMITS or call.keywords.keys() - {"min", "max", "min_val", "max_val"}:
        return None
    low, high = _LIMITS[kind]
    given = [*call.arguments[1:3], None, None]
    first = call.keywords.get("min", call.keywords.get("min_val", given[0]))
    last = call.keywords.get("max", call.keywords.get("max_val", given[1]))
    if not all(one is None or isinstance(one, int | float) for one in (first, last)):
        return None
    return (low if first is None else float(first), high if last is None else float(last))


def _readers(name: str, calls: Mapping[str, Call], given_back: set[str]) -> list[Call]:
    """Return the quantizers that read a result, behind movements; none if anything else does."""
    if name in given_back:
        return []
    found: list[Call] = []
    for call in calls.values():
        if name not in references((call.arguments, dict(call.keywords))) or _kind(call) == "sym_size":
            continue
        ends = [call] if operation_name(call.target) == _QUANTIZE else []
        if _kind(call) in _MOVING:
            ends = _readers(call.name, calls, given_back)
        if not ends:
            return []
        found += ends
    return found


def _takes(quantizer: Call, limits: tuple[float, float], tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the limits are the same codes for all scales, of a quantizer that clips nothing yet."""
    scale = quantizer.arguments[1]
    one_scale = isinstance(scale, Reference) and scale.name in tensors and tensors[scale.name].numel() == 1
    return quantizer.arguments[_CLIP] is None and (one_scale or limits == _LIMITS["relu"])


def _reading(call: Call, name: str, instead: Any) -> Call:
    if name not in references((call.arguments, dict(call.keywords))):
        return call

    def read(reference: Reference) -> Any:
        return instead if reference.name == name else reference

    return replace(call, arguments=map_references(call.arguments, read), keywords=map_references(dict(call.keywords), read))


def _kind(call: Call) -> str:
    name = operation_name(call.target)
    return name.split(".")[1] if name.startswith("aten.") else ""
