"""Does a file compute what was trained? Codes of weights, codes of activations layer by layer, and outputs, in the runtime that runs it."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillbit.errors import DataError, ExportError, requires
from stillbit.export.capture import capture
from stillbit.export.findings import Bounds, Logits, QuantizerCheck, Verification
from stillbit.export.manifest import Activation, Manifest, manifest_in
from stillbit.export.program import Program
from stillbit.export.replay import Replay, numbered, quantizer_names
from stillbit.export.runtime import Array, Session, linked, open_session, optimized, runtime_version, with_outputs
from stillbit.export.weight_check import check_weights
from stillbit.export.written import Written, as_written

_LAYOUT = frozenset(("Transpose", "Reshape", "ReorderInput", "ReorderOutput"))  # nodes that only move elements


@requires("export", "openvino")
def verify(
    path: Path | str,
    model: nn.Module | Program,
    batches: Iterable[Any],
    *,
    runtime: str = "onnxruntime",
    precise: bool = False,
    bounds: Bounds | None = None,
) -> Verification:
    """Run an exported file against the network that it was made from.

    Each activation quantizer is judged on the runtime's own input to it, so that one difference does not spread (replay.py), and a
    program in float64 says which side is right where the file and PyTorch differ.

    Args:
        path: An ONNX file that stillbit exported.
        model: The network, or its program.
        batches: Inputs, or tuples that begin with them, as loaders give them.
        runtime: "onnxruntime" or "openvino".
        precise: Whether ONNX Runtime avoids kernels that can saturate (runtime.py).
        bounds: What is allowed; the defaults if not given.

    Returns:
        What was found; `ok` says whether it is within the bounds, `str` is the report.

    Raises:
        ExportError: If the file is none of ours or of another network, or the runtime is not installed or refuses it.
        DataError: If there is no batch.
    """
    proto, manifest = _load(path)
    inputs = map(_input, batches)
    first = next(inputs, None)
    if first is None:
        raise DataError("verify got no batch; allowed: at least one")
    program = model if isinstance(model, Program) else capture(model, first)
    places = _places(manifest, program, str(path))
    plain = open_session(proto, runtime, precise=precise, where=str(path))  # first: it says best what is wrong with a graph
    weights, notes = check_weights(linked(proto, str(path)), manifest, program, str(path), runtime), []
    with_codes = with_outputs(proto, [place.codes for place in places.values()])
    watched = open_session(with_codes, runtime, precise=precise, where=str(path))
    if runtime == "onnxruntime":
        notes += _changed_kernels(proto, with_codes, precise, str(path))
    written = as_written(proto, [place.codes for place in places.values()], str(path))
    comparison = _Comparison(program, manifest, places, (plain, watched, written))
    for x in chain((first,), inputs):
        comparison.add(x)
    checks = tuple(comparison.checks[name] for name in quantizer_names(program) if name in places)
    missing = tuple(name for name in quantizer_names(program) if name not in places)
    return Verification(
        str(path), runtime_version(runtime), weights, checks, missing, comparison.logits, tuple(notes), bounds if bounds else Bounds()
    )


def _load(path: Path | str) -> tuple[Any, Manifest]:
    import onnx

    from stillbit.export.manifest import read_manifest

    read_manifest(path)  # says in one line what is wrong with the file
    proto = onnx.load(str(path))
    if len(proto.graph.output) != 1:
        raise ExportError(f"{path}: has {len(proto.graph.output)} outputs; allowed: a file with one, for verify compares top-1 of it")
    return proto, manifest_in(proto, str(path))


def _input(batch: Any) -> Tensor:
    first = batch if isinstance(batch, Tensor) else batch[0] if isinstance(batch, tuple | list) else next(iter(batch.values()))
    assert isinstance(first, Tensor)
    return first.detach().float().cpu()


def _places(manifest: Manifest, program: Program, where: str) -> dict[str, Activation]:
    """Return where each quantizer's codes stand in the file, by the program's names."""
    if manifest.input.shape != program.input_shape:
        raise ExportError(f"{where}: takes inputs of shape {manifest.input.shape}; the network takes {program.input_shape}")
    places = dict(zip(numbered([entry.quantizer for entry in manifest.activations]), manifest.activations, strict=True))
    foreign = sorted(set(places) - set(quantizer_names(program)))
    if foreign:
        raise ExportError(f"{where}: has quantizer {foreign[0]}, which the network does not; is it of this network?")
    return places


def _changed_kernels(plain: Any, watched: Any, precise: bool, where: str) -> list[str]:
    counts = [Counter(node.op_type for node in optimized(one, precise=precise, where=where).graph) for one in (plain, watched)]
    one, other = ({name: count for name, count in counted.items() if name not in _LAYOUT} for counted in counts)
    changed = [f"{other.get(name, 0) - one.get(name, 0):+d} {name}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return [f"with codes as outputs, ONNX Runtime takes other kernels: {', '.join(changed)}"] if changed else []


class _Comparison:
    """Sums up over batches."""

    def __init__(
        self, program: Program, manifest: Manifest, places: dict[str, Activation], sessions: tuple[Session, Session, Written]
    ) -> None:
        self._single, self._exact = Replay(program), Replay(program, torch.float64)
        self._manifest, self._places = manifest, places
        self._plain, self._watched, self._written = sessions
        self.checks = {name: QuantizerCheck(name) for name in places}
        self.logits = Logits()

    def add(self, x: Tensor) -> None:
        free, expected = self._single(x)
        watched, output = self._watched(x.numpy()), self._manifest.output
        found = self._plain(x.numpy())[output]
        codes = {name: met.codes for name, met in free.items()}  # of a quantizer that the file does not name: PyTorch's
        codes |= {name: _decoded(watched[place.codes], place, free[name].codes) for name, place in self._places.items()}
        written = self._written(x.numpy(), watched)
        single, replayed = self._single(x, codes)
        exact, _ = self._exact(x, codes)
        for name, place in self._places.items():
            own = _decoded(written[place.codes], place, free[name].codes)
            self.checks[name] += QuantizerCheck.of(name, codes[name], free[name].codes, single[name].codes, exact[name], own)
        self.logits = self.logits + Logits.of(found, expected.numpy(), watched[output], replayed.numpy(), self.logits.images)


def _decoded(found: Array, place: Activation, like: Tensor) -> Tensor:
    """Return the file's codes as the program has them."""
    codes = found.astype(np.float32) - place.offset
    order = place.permutation or tuple(range(like.ndim))
    if codes.size != like.numel() or len(order) != like.ndim:
        raise ExportError(f"the file's codes of {place.quantizer} have shape {found.shape}; the network's {tuple(like.shape)}")
    moved = codes.reshape([like.shape[axis] for axis in order])
    return torch.from_numpy(np.ascontiguousarray(moved.transpose(np.argsort(order))))
