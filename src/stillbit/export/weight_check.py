"""Codes of weights in a file against those of the program, past the ways in which a file may store them."""

from typing import Any

import numpy as np

from stillbit.errors import ExportError
from stillbit.export.findings import WeightCheck
from stillbit.export.layers import operation_of
from stillbit.export.manifest import Manifest
from stillbit.export.program import Program, arguments
from stillbit.export.runtime import Array
from stillbit.export.stored import stored_codes


def check_weights(model: Any, manifest: Manifest, program: Program, where: str, runtime: str) -> tuple[WeightCheck, ...]:
    """Compare all quantized weights of a file, as a runtime decodes them.

    A file may store a weight with its axes turned, without its zero point, and each output's codes times a factor: 2 for StatsQ's half
    steps, a whole number for a finer bias.
    """
    own = _own_codes(program)
    layers = [layer for layer in manifest.layers if layer.weight is not None and layer.codes is not None]
    stored = stored_codes(model, [layer.codes for layer in layers if layer.codes is not None], where, runtime=runtime)
    checks = {}
    for layer in layers:
        if layer.weight not in own:
            raise ExportError(f"{where}: has weight {layer.weight}, which the network does not; is it of this network?")
        checks[str(layer.weight)] = _check(str(layer.weight), stored[str(layer.codes)], *own[layer.weight])
    missing = [WeightCheck(name, codes.size, codes.size, "not in the file") for name, (codes, _) in own.items() if name not in checks]
    return (*checks.values(), *missing)


def _own_codes(program: Program) -> dict[str, tuple[Array, float]]:
    """Return codes less zero points, and the grid's shift, by name of quantizer."""
    tensors, found = program.tensors(), {}
    for node in program.module.graph.nodes:
        if operation_of(node) == "dequantize":
            values = tensors[arguments(node)["codes"].target].numpy().astype(np.int64)
            zero_point = arguments(node)["zero_point"]
            if zero_point is not None:
                values = values - tensors[zero_point.target].numpy().astype(np.int64)
            found[arguments(node)["label"]] = (values, arguments(node)["shift"])
    return found


def _check(name: str, stored: Array, own: Array, shift: float) -> WeightCheck:
    if stored.size != own.size:
        return WeightCheck(name, own.size, own.size, f"shape {stored.shape} in the file, {own.shape} in the network")
    rows = own.reshape(len(own), -1)
    doubled = 2 * rows + round(2 * shift)
    wanted = [doubled, 2 * rows] if shift else [doubled]  # the half step may be in the bias
    given = [stored.reshape(rows.shape), stored.reshape(rows.shape[::-1]).T]
    different = min(_different(one, other) for one in given for other in wanted)
    return WeightCheck(name, own.size, different, "" if not different else "codes differ")


def _different(stored: Array, own: Array) -> int:
    """Count what is not the own codes times one factor per row: the most frequent, so that one broken code is one."""
    ratios = np.where(own != 0, stored / np.where(own == 0, 1, own), 0)
    factors = np.array([_most_frequent(row[row > 0]) for row in ratios])
    return int((stored != factors[:, None] * own).sum())


def _most_frequent(values: Array) -> float:
    found, counts = np.unique(values, return_counts=True)
    return float(found[counts.argmax()]) if len(found) else 1.0
