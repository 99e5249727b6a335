"""What is in a file: bytes and bits by layer, the kernel that ONNX Runtime runs for each, and what could overflow."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from stillbit.errors import requires
from stillbit.export.kernels_used import INTEGER, kernels_used
from stillbit.export.layers import layers_of, operation_of, source_of
from stillbit.export.manifest import Layer, Manifest, read_manifest
from stillbit.export.packed_model import load_packed
from stillbit.export.program import Program, arguments
from stillbit.export.runtime import linked, optimized, runtime_version
from stillbit.export.saturation import Saturation, saturation_in, saturation_lines, saturation_of
from stillbit.export.stored import stored_bytes, tensor_bytes

_COLUMNS = ("layer", "kind", "bits", "weights", "bytes", "MACs", "kernel", "")
_NUMBERS = range(2, 6)  # columns
_DOCUMENT = "stillbit.document"  # the tensor of a packed file that holds its graph
_LISTED = 4  # layers that a line names


@dataclass(frozen=True)
class LayerRow:
    """One product.

    Attributes:
        name: Of the network's module.
        kind: "conv2d", "linear", "matmul", "bmm".
        bits: Width of the weight, 32: float; None: a product of activations.
        weights: Number of weights.
        bytes: That the file holds for the weights.
        macs: Multiplications per input.
        kernel: ONNX Runtime's operator; "": none was found.
    """

    name: str
    kind: str
    bits: int | None
    weights: int
    bytes: int
    macs: int
    kernel: str

    @property
    def integer(self) -> bool:
        """Whether the kernel multiplies integers."""
        return self.kernel in INTEGER

    def cells(self) -> tuple[str, ...]:
        """What a table shows."""
        bits, arithmetic = "" if self.bits is None else str(self.bits), "integer" if self.integer else "float"
        return self.name, self.kind, bits, f"{self.weights:,}", f"{self.bytes:,}", f"{self.macs:,}", self.kernel or "?", arithmetic


@dataclass(frozen=True)
class Inspection:
    """What is in a file.

    Attributes:
        path: The file.
        bytes: Its size.
        title: What it is, in a few words.
        runtime: Whose kernels these are; None: the file is run by PyTorch, in floats.
        layers: The products, in order.
        parameters: Bytes of all other tensors: scales, biases, norms.
        saturation: Largest sums of the layers that multiply codes.
        notes: What the file says that a reader should know.
    """

    path: str
    bytes: int
    title: str
    runtime: str | None
    layers: tuple[LayerRow, ...]
    parameters: int
    saturation: tuple[Saturation, ...]
    notes: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(row.bytes for row in self.layers)

    @property
    def needed(self) -> int:
        """Bytes of all weights at their true width, and of all other tensors."""
        return sum(ceil((row.bits or 0) * row.weights / 8) for row in self.layers if row.bytes) + self.parameters

    @property
    def float_bytes(self) -> int:
        """Bytes of the same weights in float32, without anything else."""
        return sum(4 * row.weights for row in self.layers if row.bytes)

    @property
    def integer_share(self) -> float:
        """Share of the multiplications that integer kernels do."""
        total = sum(row.macs for row in self.layers)
        return sum(row.macs for row in self.layers if row.integer) / total if total else 0.0

    def __str__(self) -> str:
        """A table of the layers, and totals."""
        shown = len(_COLUMNS) if self.runtime else _COLUMNS.index("kernel")
        graph = self.bytes - self.weight_bytes - self.parameters
        lines = [
            f"{self.path}: {self.bytes:,} bytes, {self.title}{f'; kernels of {self.runtime}' if self.runtime else ''}",
            *_table([row[:shown] for row in (_COLUMNS, *(row.cells() for row in self.layers))]),
            f"bytes: {self.weight_bytes:,} of weights, {self.parameters:,} of other tensors, {graph:,} of the graph; "
            f"{self.bytes / max(self.needed, 1):.3f} x what weights at their width and other tensors need; "
            f"weights in float32 alone would be {self.float_bytes / max(self.bytes, 1):.2f} x this file",
            *self._kernels(),
            *saturation_lines(self.saturation),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _kernels(self) -> list[str]:
        macs, others = sum(row.macs for row in self.layers), [row.name for row in self.layers if not row.integer]
        if not self.runtime:
            return [f"multiplications: {macs:,}"]
        listed = ", ".join(others[:_LISTED]) + (f" and {len(others) - _LISTED} more" if len(others) > _LISTED else "")
        return [f"multiplications: {self.integer_share:.2%} of {macs:,} on integer kernels{f'; in floats: {listed}' if others else ''}"]


@requires("export")
def inspect(path: Path | str) -> Inspection:
    """Look into an exported file: ONNX, or packed safetensors.

    Raises:
        ExportError: If it is none of ours, cut, or ONNX Runtime refuses it.
    """
    return _inspect_packed(Path(path)) if Path(path).suffix == ".safetensors" else _inspect_onnx(Path(path))


def _inspect_onnx(path: Path) -> Inspection:
    import onnx

    manifest = read_manifest(path)  # says in one line what is wrong with the file
    proto, where = onnx.load(str(path)), str(path)
    running, model = optimized(proto, where=where), linked(proto, where)  # the runtime says best what is wrong with a graph
    kernels = kernels_used(model, running, [layer.node for layer in manifest.layers])
    del running  # it is as large as the file
    sizes = _weight_bytes(model, manifest, where)
    rows = tuple(_row(layer, sizes, kernels) for layer in manifest.layers)
    parameters = sum(tensor_bytes(tensor) for tensor in proto.graph.initializer) - sum(row.bytes for row in rows)
    widths = f"{manifest.bits}, " if manifest.bits else ""
    title = f"{widths}container {manifest.container}, written by stillbit {manifest.stillbit}"
    saturation = tuple(saturation_in(model, manifest, where))
    return Inspection(where, path.stat().st_size, title, runtime_version("onnxruntime"), rows, parameters, saturation, manifest.notes)


def _inspect_packed(path: Path) -> Inspection:
    packed = load_packed(path)
    stored = _stored_sizes(path)
    parameters, rows = sum(stored.values()), []
    for info in layers_of(packed.program):
        held = stored.pop(_codes_name(packed.program, info.node), 0) if info.weights else 0
        rows.append(LayerRow(info.layer, info.kind, info.bits, info.weights, held, info.macs, ""))
    parameters -= sum(row.bytes for row in rows)
    title = f"packed {packed.manifest['network']}, written by stillbit {packed.manifest['versions']['stillbit']}"
    return Inspection(str(path), path.stat().st_size, title, None, tuple(rows), parameters, tuple(saturation_of(packed.program)))


def _stored_sizes(path: Path) -> dict[str, int]:
    """Return the bytes of a safetensors file's tensors, without the document that describes the graph."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).nbytes for name in file.keys() if name != _DOCUMENT}  # noqa: SIM118 - not a dict


def _codes_name(program: Program, name: str) -> str:
    """Return the name of the tensor that a layer's weight is, or is made of."""
    (node,) = (one for one in program.module.graph.nodes if one.name == name)
    sources = [source_of(one) for one in node.args[:2]]
    (weight,) = (one for one in sources if one.op == "get_attr" or operation_of(one) == "dequantize")
    return str(weight.target if weight.op == "get_attr" else arguments(weight)["codes"].target)


def _row(layer: Layer, sizes: dict[str, int], kernels: dict[str, str]) -> LayerRow:
    stored = sizes.pop(layer.codes or layer.node, 0) if layer.weights else 0  # what two layers share counts for the first
    return LayerRow(layer.name, layer.kind, layer.bits, layer.weights, stored, layer.macs, kernels[layer.node])


def _weight_bytes(model: Any, manifest: Manifest, where: str) -> dict[str, int]:
    """Return the bytes of weights: of codes by name of the initializer, of float weights by name of the node."""
    sizes = stored_bytes(model, [layer.codes for layer in manifest.layers if layer.weight is not None and layer.codes is not None], where)
    for node in model.graph:
        sizes.setdefault(node.name, _second_bytes(node))
    return sizes


def _second_bytes(node: Any) -> int:
    """Return the bytes of the initializer that a node's second input is, or is made of by first inputs; 0: of none."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    while value is not None and not value.is_initializer():
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.inputs else None
    return 0 if value is None else tensor_bytes(value.const_value.raw)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_padded(*one) for one in zip(row, widths, range(len(row)), strict=True)).rstrip() for row in rows]


def _padded(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
