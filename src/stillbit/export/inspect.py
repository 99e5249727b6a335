"""What is in a file: bytes and bits by layer, the kernel that ONNX Runtime runs for each, and what could overflow."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from stillbit.export.kernels_used import INTEGER, kernels_used
from stillbit.export.manifest import Layer, Manifest, manifest_in, read_manifest
from stillbit.export.runtime import optimized, runtime_version
from stillbit.export.saturation import Saturation, saturation_in, saturation_lines
from stillbit.export.stored import stored_bytes, tensor_bytes

_COLUMNS = ("layer", "kind", "bits", "weights", "bytes", "MACs", "kernel", "")
_NUMBERS = range(2, 6)  # columns


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
        manifest: What it says of itself.
        runtime: Whose kernels these are.
        layers: The products, in order.
        parameters: Bytes of all other tensors: scales, biases, norms.
        saturation: Largest sums of the layers that multiply codes.
    """

    path: str
    bytes: int
    manifest: Manifest
    runtime: str
    layers: tuple[LayerRow, ...]
    parameters: int
    saturation: tuple[Saturation, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(row.bytes for row in self.layers)

    @property
    def needed(self) -> int:
        """Bytes of all weights at their true width, and of all other tensors."""
        return sum(ceil((row.bits or 0) * row.weights / 8) for row in self.layers) + self.parameters

    @property
    def float_bytes(self) -> int:
        """Bytes of the same weights in float32, without anything else."""
        return sum(4 * row.weights for row in self.layers)

    @property
    def integer_share(self) -> float:
        """Share of the multiplications that integer kernels do."""
        total = sum(row.macs for row in self.layers)
        return sum(row.macs for row in self.layers if row.integer) / total if total else 0.0

    def __str__(self) -> str:
        """A table of the layers, and totals."""
        said = self.manifest
        widths = f"{said.bits}, " if said.bits else ""
        graph = self.bytes - self.weight_bytes - self.parameters
        macs = sum(row.macs for row in self.layers)
        lines = [
            f"{self.path}: {self.bytes:,} bytes, {widths}container {said.container}, written by stillbit {said.stillbit}; "
            f"kernels of {self.runtime}",
            *_table([_COLUMNS, *(row.cells() for row in self.layers)]),
            f"bytes: {self.weight_bytes:,} of weights, {self.parameters:,} of other tensors, {graph:,} of the graph; "
            f"{self.bytes / max(self.needed, 1):.3f} x what weights at their width and other tensors need; "
            f"weights in float32 alone would be {self.float_bytes / max(self.bytes, 1):.2f} x this file",
            f"multiplications: {self.integer_share:.2%} of {macs:,} on integer kernels{self._not_integer()}",
            *saturation_lines(self.saturation),
            *(f"note: {note}" for note in said.notes),
        ]
        return "\n".join(lines)

    def _not_integer(self) -> str:
        others = [row.name for row in self.layers if not row.integer]
        listed = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        return f"; in floats: {listed}" if others else ""


def inspect(path: Path | str) -> Inspection:
    """Looks into an exported ONNX file.

    Raises:
        ExportError: If it is none of ours, cut, or ONNX Runtime refuses it.
    """
    import onnx

    manifest = read_manifest(path)  # says in one line what is wrong with the file
    model, where = onnx.load(str(path)), str(path)
    made = optimized(model, where=where)
    kernels = kernels_used(model, made, [layer.node for layer in manifest.layers])
    sizes = _weight_bytes(model, manifest, where)
    rows = tuple(_row(layer, sizes, kernels) for layer in manifest.layers)
    everything = sum(tensor_bytes(tensor) for tensor in model.graph.initializer)
    parameters = everything - sum(row.bytes for row in rows)
    saturation = tuple(saturation_in(model, manifest_in(model, where), where))
    return Inspection(where, Path(path).stat().st_size, manifest, runtime_version("onnxruntime"), rows, parameters, saturation)


def _row(layer: Layer, sizes: dict[str, int], kernels: dict[str, str]) -> LayerRow:
    stored = sizes.pop(layer.codes or layer.node, 0) if layer.weights else 0  # what two layers share counts for the first
    return LayerRow(layer.name, layer.kind, layer.bits, layer.weights, stored, layer.macs, kernels[layer.node])


def _weight_bytes(model: Any, manifest: Manifest, where: str) -> dict[str, int]:
    """Gives the bytes of weights: of codes by name of the initializer, of float weights by name of the node."""
    sizes = stored_bytes(model, [layer.codes for layer in manifest.layers if layer.weight is not None and layer.codes is not None], where)
    tensors = {tensor.name: tensor_bytes(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        sizes.setdefault(node.name, next((tensors[name] for name in _back(node, producers) if name in tensors), 0))
    return sizes


def _back(node: Any, producers: dict[str, Any]) -> list[str]:
    """Gives the names of a node's second input and of what it was made of, by their first inputs."""
    names = [node.input[1]] if len(node.input) > 1 else []
    while names and names[-1] in producers and producers[names[-1]].input:
        names.append(producers[names[-1]].input[0])
    return names


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_padded(*one) for one in zip(row, widths, range(len(row)), strict=True)).rstrip() for row in rows]


def _padded(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
