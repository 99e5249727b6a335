"""Codes of weights in a file against those of the program, past the ways in which a file may store them."""

from typing import Any

import numpy as np

from stillbit.errors import ExportError
from stillbit.export.layers import argument_of, operation_of
from stillbit.export.manifest import Manifest
from stillbit.export.program import Program
from stillbit.export.runtime import Array
from stillbit.export.stored import stored_codes
from stillbit.export.verification import WeightCheck


def check_weights(model: Any, manifest: Manifest, program: Program, where: str) -> tuple[WeightCheck, ...]:
    """Compares all quantized weights of a file.

    A file may store a weight with its axes turned, without its zero point, and times a whole number or a half (StatsQ's half steps).
    """
    own = _own_codes(program)
    layers = [layer for layer in manifest.layers if layer.weight is not None and layer.codes is not None]
    stored = stored_codes(model, [layer.codes for layer in layers if layer.codes is not None], where)
    checks = {}
    for layer in layers:
        if layer.weight not in own:
            raise ExportError(f"{where}: has weight {layer.weight}, which the network does not; is it of this network?")
        checks[str(layer.weight)] = _check(str(layer.weight), stored[str(layer.codes)], *own[layer.weight])
    missing = [WeightCheck(name, codes.size, codes.size, "not in the file") for name, (codes, _) in own.items() if name not in checks]
    return (*checks.values(), *missing)


def _own_codes(program: Program) -> dict[str, tuple[Array, float]]:
    """Gives codes less zero points, and the grid's shift, by name of quantizer."""
    tensors, found = program.tensors(), {}
    for node in program.module.graph.nodes:
        if operation_of(node) == "dequantize":
            values = tensors[argument_of(node, "codes", 0).target].numpy().astype(np.int64)
            zero_point = argument_of(node, "zero_point", 2)
            if zero_point is not None:
                values = values - tensors[zero_point.target].numpy().astype(np.int64)
            found[argument_of(node, "label", 5)] = (values, argument_of(node, "shift", 3))
    return found


def _check(name: str, stored: Array, own: Array, shift: float) -> WeightCheck:
    if stored.size != own.size:
        return WeightCheck(name, own.size, own.size, f"shape {stored.shape} in the file, {own.shape} in the network")
    doubled = 2 * own + round(2 * shift)
    wanted = [doubled, 2 * own] if shift else [doubled]  # the half step may be in the bias
    different = min(_different(stored, turned) for one in wanted for turned in _turned(one, stored.shape))
    return WeightCheck(name, own.size, different, "" if not different else "codes differ")


def _turned(own: Array, shape: tuple[int, ...]) -> list[Array]:
    """Gives codes as they are, and with rows for columns, in the shape of the file."""
    rows = own.reshape(len(own), -1)
    return [own.reshape(shape), np.ascontiguousarray(rows.T).reshape(shape)]


def _different(stored: Array, own: Array) -> int:
    """Counts what is not the own codes times one factor for all: the most frequent, so that one broken code is one."""
    present = own != 0
    if not present.any():
        return int((stored != 0).sum())
    ratios, counts = np.unique(stored[present] / own[present], return_counts=True)
    factor = ratios[counts.argmax()]
    return int((stored != factor * own).sum()) if factor > 0 else own.size
