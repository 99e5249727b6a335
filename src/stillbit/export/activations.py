"""Activation functions that become part of the quantizers behind them, as in a file that a runtime fuses: the numbers stay, bit for bit.

A runtime computes a product, the activation behind it and the codes behind that in one kernel, with the bias in whole units of its
accumulator. The writer has to see the quantizer that a product ends in, through whatever only moves elements, to choose that bias.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from stillbit.export.program import Call, Reference, map_references, operation_name, references

_QUANTIZE = "stillbit.fake_quantize.default"
_CLIP = 6  # its place among the arguments of that
_INFINITE = float("inf")
# Limits that nothing is given for, and the names of those that may be, in their order.
_LIMITS: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "relu": (0.0, _INFINITE, ()),
    "relu6": (0.0, 6.0, ()),
    "hardtanh": (-1.0, 1.0, ("min_val", "max_val")),
    "clamp": (-_INFINITE, _INFINITE, ("min", "max")),
    "clamp_min": (-_INFINITE, _INFINITE, ("min",)),
    "clamp_max": (-_INFINITE, _INFINITE, ("max",)),
}
# A pool takes the largest of some elements, which clipping first or last does not change.
_MOVING = ("contiguous", "flatten", "mT", "max_pool2d", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view")


def fold_activations(calls: Sequence[Call], tensors: Mapping[str, Tensor], output: Any) -> list[Call]:
    """Return the calls of a program, without the activations that quantizers alone read, behind movements of elements at most."""
    readers: dict[str, list[Call | None]] = defaultdict(list)  # None: who calls the program
    for call in calls:
        for name in set(references((call.arguments, dict(call.keywords)))):
            readers[name].append(call)
    for name in references(output):
        readers[name].append(None)
    clips: dict[str, tuple[float, float]] = {}
    instead: dict[str, Any] = {}
    for call in calls:
        limits = _limits(call)
        quantizers = [] if limits is None else _quantizers(call, readers)
        if limits is not None and quantizers and all(one.name not in clips and _takes(one, limits, tensors) for one in quantizers):
            clips |= {one.name: limits for one in quantizers}
            instead[call.name] = call.arguments[0]

    def read(reference: Reference) -> Any:
        return read(instead[reference.name]) if reference.name in instead else reference

    kept = [_clipping(call, clips.get(call.name)) for call in calls if call.name not in instead]
    return [
        replace(call, arguments=map_references(call.arguments, read), keywords=map_references(dict(call.keywords), read)) for call in kept
    ]


def _clipping(call: Call, limits: tuple[float, float] | None) -> Call:
    if limits is None:
        return call
    return replace(call, arguments=(*call.arguments[:_CLIP], list(limits), *call.arguments[_CLIP + 1 :]))


def _limits(call: Call) -> tuple[float, float] | None:
    """Return the limits that an operation clips to; None for any other, and for limits that are tensors."""
    if _kind(call) not in _LIMITS:
        return None
    low, high, names = _LIMITS[_kind(call)]
    given = dict(zip(names, call.arguments[1:], strict=False)) | dict(call.keywords)
    if not all(one is None or isinstance(one, int | float) for one in given.values()):
        return None
    for name, limit in given.items():
        if limit is not None:
            low, high = (float(limit), high) if name.startswith("min") else (low, float(limit))
    return low, high


def _quantizers(call: Call, readers: Mapping[str, list[Call | None]]) -> list[Call]:
    """Return the quantizers that read a result, behind movements; none if anything else does."""
    found: list[Call] = []
    for reader in readers.get(call.name, ()):
        if reader is None:
            return []
        if _kind(reader) == "sym_size":
            continue
        ends = [reader] if operation_name(reader.target) == _QUANTIZE else []
        if _kind(reader) in _MOVING:
            ends = _quantizers(reader, readers)
        if not ends:
            return []
        found += ends
    return found


def _takes(quantizer: Call, limits: tuple[float, float], tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the limits are the same codes for all scales, of a quantizer that clips nothing yet."""
    scale = quantizer.arguments[1]
    one_scale = isinstance(scale, Reference) and scale.name in tensors and tensors[scale.name].numel() == 1
    return quantizer.arguments[_CLIP] is None and (one_scale or limits == (0.0, _INFINITE))


def _kind(call: Call) -> str:
    name = operation_name(call.target)
    return name.split(".")[1] if name.startswith("aten.") else ""
