"""How the codes of a weight lie in an ONNX file, and how the graph makes int8 of them. A runtime computes that once, while it loads.

| container | bytes | loads in |
|---|---|---|
| int8 | 8 bits a weight | every runtime |
| int4 | 4 bits a weight (8 where codes have more than 4) | ONNX Runtime from 1.23, OpenVINO |
| packed | the codes' true width, in bit planes | ONNX Runtime from 1.19, OpenVINO (there as float kernels) |
| auto | for each weight the smallest that the runtime is known to load onto integer kernels | |

A bit plane holds 1, 2 or 4 bits of each code; codes of 3 bits have a plane of two bits and one of one.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from stillbit.errors import ExportError
from stillbit.export.onnx.builder import Array, Builder

CONTAINERS = ("auto", "int8", "int4", "packed")
_INT4_FROM = (1, 23)  # ONNX Runtime that folds Cast(INT4) onto integer kernels
_DECODING = 450  # bytes of the nodes that decode a bit plane, about
_PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


@dataclass(frozen=True)
class Container:
    """Which container a file uses.

    Attributes:
        kind: One of `CONTAINERS`.
        runtime: The oldest ONNX Runtime that must load the file.
    """

    kind: str = "auto"
    runtime: tuple[int, int] = _INT4_FROM

    @classmethod
    def parse(cls, kind: str, runtime: str | None = None) -> "Container":
        """Read a container's name and a version like "1.23"; None is the runtime that is installed."""
        if kind not in CONTAINERS:
            raise ExportError(f"container is {kind!r}; allowed are {', '.join(CONTAINERS)}")
        if runtime is None:
            import onnxruntime

            runtime = onnxruntime.__version__
        try:
            major, minor, *_ = (int(part) for part in runtime.split("."))
        except ValueError:
            raise ExportError(f"runtime is {runtime!r}; allowed: a version of ONNX Runtime, e.g. 1.23") from None
        if (major, minor) < (1, 19):
            raise ExportError(f"runtime is {runtime}; allowed: ONNX Runtime 1.19 or newer")
        if kind == "int4" and (major, minor) < _INT4_FROM:
            raise ExportError(f"container is 'int4' with runtime {runtime}; allowed: ONNX Runtime 1.23 or newer, or another container")
        return cls(kind, (major, minor))

    def choose(self, count: int, bits: int) -> str:
        """Return the container of one weight: int8, int4 or packed."""
        if self.kind != "auto":
            return "int8" if (self.kind == "int4" and bits > 4) or bits > 7 else self.kind
        sizes = {"int8": count}
        if bits <= 4 and self.runtime >= _INT4_FROM:
            sizes["int4"] = -(-count // 2)
        if bits <= 7:
            sizes["packed"] = sum(-(-count * width // 8) + _DECODING for width in _PLANES[bits])
        return min(sizes, key=lambda kind: sizes[kind])


@dataclass(frozen=True)
class Arrangement:
    """What a graph holds in place of a code: `refined * (factor * code + term)`.

    Attributes:
        factor: 2 for a grid whose values lie between whole numbers, else 1.
        term: Whole numbers, one per output or one for all.
        refined: Whole numbers, one per output or one for all; `weights.py` says what for.
    """

    factor: int
    term: Array
    refined: Array

    def of(self, codes: Array) -> Array:
        """Arranges codes, outputs along axis 0."""
        axes = (-1, *(1,) * (codes.ndim - 1))
        arranged: Array = self.refined.reshape(axes) * (self.factor * codes.astype(np.int64) + self.term.reshape(axes))
        return arranged


def store_codes(builder: Builder, codes: Array, bits: int, container: str, label: str, arrangement: Arrangement) -> tuple[str, str]:
    """Store codes.

    Returns:
        Names: of an int8 tensor of arranged codes, in their shape, and of the (first) tensor that is stored.
    """
    low = -(2 ** (bits - 1)) if codes.dtype == np.int8 else 0
    if container == "int8":
        wanted = arrangement.of(codes)
        assert np.array_equal(wanted, wanted.astype(np.int8)), "codes leave int8"
        stored = builder.store(onnx.numpy_helper.from_array(np.ascontiguousarray(wanted.astype(np.int8))), f"{label}.codes")
        return stored, stored
    unsigned = (codes.astype(np.int16) - low).astype(np.uint8).reshape(-1)
    if container == "int4":
        centred = unsigned.astype(np.int8) - 8  # a code of 4 bits or fewer, put at the low end of INT4
        stored = builder.store(_int4(centred, codes.shape), f"{label}.codes")
        whole, at_zero = builder.add("Cast", [stored], f"{label}/int32", to=onnx.TensorProto.INT32), low + 8
    else:
        (flat, stored), at_zero = _decoded(builder, unsigned, bits, label), low
        whole = builder.add("Reshape", [flat, builder.constant(np.array(codes.shape, np.int64), "shape")], f"{label}/shape")
    axes = (-1, *(1,) * (codes.ndim - 1))
    whole = _affine(builder, "Mul", whole, np.full(1, arrangement.factor), axes, label)
    whole = _affine(builder, "Add", whole, arrangement.term + arrangement.factor * at_zero, axes, label)
    whole = _affine(builder, "Mul", whole, arrangement.refined, axes, label)
    return builder.add("Cast", [whole], f"{label}/int8", to=onnx.TensorProto.INT8), stored


def _affine(builder: Builder, operation: str, name: str, operand: Array, axes: tuple[int, ...], label: str) -> str:
    """Multiply by, or add, a whole number per output, unless that changes nothing; small numbers are stored in 8 bits."""
    if bool((operand == (1 if operation == "Mul" else 0)).all()):
        return name
    shaped = operand[:1].reshape(()) if bool((operand == operand[0]).all()) else operand.reshape(axes)
    if shaped.size > 16 and np.abs(shaped).max() <= 127:
        narrow = builder.constant(shaped.astype(np.int8), "factor")
        wide = builder.add("Cast", [narrow], f"{label}/wide", to=onnx.TensorProto.INT32)
    else:
        wide = builder.constant(shaped.astype(np.int32), "factor")
    return builder.add(operation, [name, wide], f"{label}/{operation.lower()}")


def _int4(values: Array, shape: tuple[int, ...]) -> onnx.TensorProto:
    nibbles = (values.astype(np.int16) & 15).astype(np.uint8)
    if len(nibbles) % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    raw = (nibbles[0::2] | (nibbles[1::2] << 4)).tobytes()
    return onnx.helper.make_tensor("", onnx.TensorProto.INT4, shape, raw, raw=True)


def _decoded(builder: Builder, unsigned: Array, bits: int, label: str) -> tuple[str, str]:
    """Store bit planes; return the names of a flat int32 tensor of the codes, and of the first plane."""
    parts: list[tuple[str, str]] = []
    above = 0
    for width in _PLANES[bits]:
        plane = (unsigned >> above) & (2**width - 1)
        name, stored = _plane(builder, plane, width, f"{label}.bits{above}" if above else f"{label}.codes")
        if above:
            name = builder.add("Mul", [name, builder.constant(np.array(2**above, np.int32), "place")], f"{label}/place")
        parts.append((name, stored))
        above += width
    total = parts[0][0]
    for part, _ in parts[1:]:
        total = builder.add("Add", [total, part], f"{label}/join")
    return total, parts[0][1]


def _plane(builder: Builder, plane: Array, width: int, wanted: str) -> tuple[str, str]:
    each = 8 // width
    count = plane.size
    padded = np.concatenate([plane, np.zeros(-count % each, np.uint8)]).reshape(-1, each)
    places = (np.arange(each) * width).astype(np.uint8)
    stored = builder.store(onnx.numpy_helper.from_array(np.bitwise_or.reduce(padded << places, axis=1).reshape(-1, 1)), wanted)
    masks = ((2**width - 1) << places).astype(np.uint8)  # before the shift: OpenVINO divides and rounds to the nearest
    masked = builder.add("BitwiseAnd", [stored, builder.constant(masks, "mask")], f"{wanted}/mask")
    shifted = builder.add("BitShift", [masked, builder.constant(places, "places")], f"{wanted}/shift", direction="RIGHT")
    flat = builder.add("Reshape", [shifted, builder.constant(np.array([-1], np.int64), "flat")], f"{wanted}/flat")
    if count % each:
        bounds = [builder.constant(np.array([bound], np.int64), "bound") for bound in (0, count)]
        flat = builder.add("Slice", [flat, *bounds], f"{wanted}/cut")
    return builder.add("Cast", [flat], f"{wanted}/int32", to=onnx.TensorProto.INT32), stored
