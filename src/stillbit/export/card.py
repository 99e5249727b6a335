"""Model cards: what a packed file is, in Markdown, for whoever finds it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillbit.errors import ExportError
from stillbit.export.layers import LayerInfo, layers_of
from stillbit.export.packed_model import PackedModel
from stillbit.files import write_whole

_MARK = "<!-- model card written by stillbit; the last section is yours and is kept -->"
_YOURS = "## Licence and sources"
_TO_FILL_IN = """
To be filled in by whoever publishes this file: the licence of these weights, the data that they were trained on, and where
the float network came from, with its licence. stillbit's own licence (Apache-2.0) is that of the software, not of the weights.
"""
_LINES = 24  # layers that are listed one by one


def check_card(path: Path) -> None:
    """Look at what would be replaced by the card of a file."""
    card = path.with_suffix(".md")
    if card == path:
        raise ExportError(f"{path}: is the name of a model card; allowed: one that does not end with .md")
    if card.exists() and not _text(card).startswith(_MARK):
        raise ExportError(f"{card}: exists and is no model card of stillbit; allowed: another name for {path.name}")


def write_card(path: Path, packed: PackedModel) -> None:
    """Write NAME.md next to NAME.safetensors; the section on licence and sources of a card that is there stays."""
    card = path.with_suffix(".md")
    kept = _text(card).partition(f"\n{_YOURS}\n")[2] if card.exists() else ""
    write_whole(card, (model_card(path, packed) + (kept or _TO_FILL_IN)).encode())


def model_card(path: Path, packed: PackedModel) -> str:
    """Return the text of a card, up to the heading of the section that the user fills in."""
    layers, manifest = layers_of(packed.program), packed.manifest
    sections = [
        f"{_MARK}\n# {path.stem}",
        _summary(path, layers, manifest),
        f"## Use\n{_use(path, manifest)}",
        f"## Size\n{_size(path, manifest)}",
        f"## Accuracy\n{_accuracy(manifest.get('accuracy'))}",
        f"## Bits\n{_bits(layers)}",
        *_given("## Images", "What an image goes through before the network sees it:", manifest.get("preprocessing")),
        *_given("## Training", "The recipe:", manifest.get("recipe")),
        f"## Versions\nWritten by stillbit {manifest['versions']['stillbit']} with torch {manifest['versions']['torch']}.",
        f"{_YOURS}\n",
    ]
    return "\n\n".join(sections)


def _summary(path: Path, layers: list[LayerInfo], manifest: Mapping[str, Any]) -> str:
    quantized = [layer for layer in layers if layer.weight is not None]
    weights, inputs = _usual(quantized)
    classes = f", {len(manifest['classes'])} classes" if manifest.get("classes") else ""
    shape = " x ".join(map(str, manifest["input_shape"]))
    usual = f"{weights}-bit weights" + (f" and {inputs}-bit activations" if inputs else "")
    return (
        f"`{manifest['network']}` with {usual} in most of its {len(quantized)} quantized layers (input {shape}{classes}).\n"
        f"`{path.name}` holds each weight at its true width, and gives the outputs of the network that was exported bit for bit."
    )


def _usual(quantized: list[LayerInfo]) -> tuple[int, int | None]:
    weights = Counter(layer.bits for layer in quantized if layer.bits is not None)
    inputs = Counter(operand.bits for layer in quantized for operand in layer.operands if operand is not None)
    return weights.most_common(1)[0][0], inputs.most_common(1)[0][0] if inputs else None


def _use(path: Path, manifest: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, manifest["input_shape"]))
    lines = [
        "```python",
        "import torch",
        "from stillbit import load_packed",
        "",
        f'network = load_packed("{path.name}")',
        f"output = network(torch.zeros(1, {shape}))  # float32; any batch size",
        "network.codes    # integers of each quantized layer",
        "network.entries  # everything else of the trained network's state",
        "```",
    ]
    if manifest.get("preprocessing"):
        lines += ["", "Or, for pictures, on the command line:", "```", f"stillbit predict {path.name} picture.jpg", "```"]
    return "\n".join(lines)


def _size(path: Path, manifest: Mapping[str, Any]) -> str:
    size, as_float = path.stat().st_size, manifest["float_bytes"]
    return f"{size:,} bytes, {as_float / size:.1f} times less than the float32 network's {as_float:,}."


def _accuracy(accuracy: Mapping[str, float] | None) -> str:
    if not accuracy:
        return "Not measured for this card."
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value:.2%} |" for name, value in accuracy.items())])


def _bits(layers: list[LayerInfo]) -> str:
    rows = _by_layer(layers) if len(layers) <= _LINES else _by_width(layers)
    return "\n".join(rows)


def _by_layer(layers: list[LayerInfo]) -> Iterator[str]:
    yield "| layer | | weights | weight bits | input bits |"
    yield "|---|---|---|---|---|"
    for layer in layers:
        yield f"| {layer.layer} | {layer.kind} | {layer.weights or ''} | {_width(layer.bits)} | {_inputs(layer)} |"


def _by_width(layers: list[LayerInfo]) -> Iterator[str]:
    yield "| layers | weights | weight bits | input bits | which |"
    yield "|---|---|---|---|---|"
    groups: dict[tuple[str, str], list[LayerInfo]] = {}
    for layer in layers:
        groups.setdefault((_width(layer.bits), _inputs(layer)), []).append(layer)
    for (bits, inputs), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        names = list(dict.fromkeys(layer.layer for layer in group))
        which = ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"
        yield f"| {len(group)} | {sum(layer.weights for layer in group):,} | {bits} | {inputs} | {which} |"


def _width(bits: int | None) -> str:
    return "none (two activations)" if bits is None else "float" if bits == 32 else str(bits)


def _inputs(layer: LayerInfo) -> str:
    return ", ".join("float" if operand is None else str(operand.bits) for operand in layer.operands)


def _given(title: str, line: str, values: Mapping[str, Any] | None) -> Iterator[str]:
    if values:
        import yaml  # late: `import stillbit` needs none

        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        yield f"{title}\n{line}\n```yaml\n{text}```"


def _text(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
