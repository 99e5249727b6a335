"""What an exported ONNX file says of itself: which of its tensors hold the codes of which quantizer, and which node is which layer.

It stands in the file's metadata under one key, as JSON. The writer makes it; `verify`, `inspect` and `predict` read it.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillbit.errors import ExportError

KEY = "stillbit"
FORMAT = 1


@dataclass(frozen=True)
class Input:
    """The input of a file.

    Attributes:
        name: Name of the ONNX tensor.
        shape: Without the batch.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Activation:
    """Where the codes of an activation quantizer stand. The program's code is the file's code less `offset`.

    Attributes:
        quantizer: Name of the quantizer.
        codes: Name of the ONNX tensor of clipped codes, uint8.
        offset: What the file adds to the program's codes.
        low: Smallest code of the program.
        high: Largest code of the program.
        bits: Width.
        permutation: From the program's axes to the file's, as numpy's transpose takes it; None: as they are.
    """

    quantizer: str
    codes: str
    offset: int
    low: int
    high: int
    bits: int
    permutation: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Layer:
    """One product.

    Attributes:
        name: Name of the network's module.
        node: Name of the ONNX node that multiplies.
        kind: The operation: "conv2d", "linear", "matmul", "bmm".
        weight: Name of the weight's quantizer; None: a float weight, or a product of activations.
        codes: Name of the initializer that holds the weight; None: a product of activations.
        bits: Width of the weight, 32: float; None: a product of activations.
        weights: Number of weights.
        macs: Multiplications per input.
    """

    name: str
    node: str
    kind: str
    weight: str | None
    codes: str | None
    bits: int | None
    weights: int
    macs: int


@dataclass(frozen=True)
class Manifest:
    """All that a file says of itself.

    Attributes:
        stillbit: Version that wrote it.
        container: How weights are stored: "int8", "int4", "packed".
        input: The input.
        output: Name of the ONNX tensor of the output.
        activations: The activation quantizers, in order.
        layers: The products, in order.
        bits: Short form of the widths, "W4A4"; None: no one form says it.
        preprocessing: From an image to the input.
        classes: Names of the outputs.
        recipe: What the network was trained with.
        notes: What a reader should know, one line each.
        format: Of this description.
    """

    stillbit: str
    container: str
    input: Input
    output: str
    activations: tuple[Activation, ...]
    layers: tuple[Layer, ...]
    bits: str | None = None
    preprocessing: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    recipe: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the text that the file carries."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))


def manifest_of(text: str, where: str) -> Manifest:
    """Read what `Manifest.to_json` gave."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ExportError(f"{where}: its description is no JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        given = values.get("format") if isinstance(values, dict) else None
        raise ExportError(f"{where}: its description has format {given!r}; allowed: {FORMAT}")
    manifest: Manifest = _build(Manifest, values, where)
    return manifest


def read_manifest(path: Path | str) -> Manifest:
    """Read the description of an ONNX file."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise ExportError(f"{path}: no such file") from error
    except Exception as error:  # protobuf's own errors, which are no public names
        raise ExportError(f"{path}: not an ONNX file ({type(error).__name__})") from error
    return manifest_in(model, str(path))


def manifest_in(model: Any, where: str) -> Manifest:
    """Read the description of an ONNX model (`onnx.ModelProto`); errors as `read_manifest`."""
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if not texts:
        raise ExportError(f"{where}: no description of ours in its metadata; allowed: a file that stillbit exported")
    return manifest_of(texts[0], where)


def _build(kind: Any, value: Any, where: str) -> Any:
    """Make a value of that type out of JSON, or return what is wrong with it."""
    options = [kind] if not isinstance(kind, types.UnionType) else list(typing.get_args(kind))
    if value is None and type(None) in options:
        return None
    (kind,) = (one for one in options if one is not type(None))
    if dataclasses.is_dataclass(kind):
        return _build_fields(kind, value, where)
    origin = typing.get_origin(kind) or kind
    if not isinstance(value, list if origin is tuple else origin) or (kind is int and isinstance(value, bool)):
        raise ExportError(f"{where}: in its description {value!r} stands for {getattr(kind, '__name__', kind)}")
    return tuple(_build(typing.get_args(kind)[0], one, where) for one in value) if origin is tuple else value


def _build_fields(kind: Any, value: Any, where: str) -> Any:
    known = {field.name: field for field in dataclasses.fields(kind)}
    given = set(value) if isinstance(value, dict) else set()
    missing = {name for name, field in known.items() if field.default is dataclasses.MISSING} - given
    if given - set(known) or missing:
        wrong = ", ".join([*(f"unknown {name}" for name in sorted(given - set(known))), *(f"no {name}" for name in sorted(missing))])
        raise ExportError(f"{where}: in its description of {kind.__name__.lower()}: {wrong}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _build(hints[name], one, where) for name, one in value.items()})
