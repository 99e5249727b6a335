"""`export_onnx`: one ONNX file of a trained network, with a description of itself."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from onnx import helper
from torch import Tensor, nn

from stillbit.errors import ExportError
from stillbit.export.capture import capture
from stillbit.export.files import write_whole
from stillbit.export.layers import layers_of
from stillbit.export.manifest import KEY, Input, Layer, Manifest
from stillbit.export.onnx.containers import Container
from stillbit.export.onnx.lowering import Lowering
from stillbit.export.onnx.operations import OPERATIONS
from stillbit.export.onnx.value import Shape
from stillbit.export.program import INPUT, Program

OUTPUT = "logits"
_BATCH = "batch"


def export_onnx(
    model: nn.Module | Program,
    path: Path | str,
    *,
    example: Tensor | None = None,
    container: str = "auto",
    runtime: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Manifest:
    """Writes a trained network as an ONNX file that runtimes execute on integer kernels.

    Args:
        model: A prepared and trained model, in float32, or a program of it; stays as it is.
        path: The file; an old one is replaced, as a whole or not at all.
        example: An input of the model, e.g. zeros of shape (1, 3, 224, 224); the file takes any batch of that size.
            A program needs none.
        container: How weights are stored: "int8", "int4", "packed", or "auto", for each weight the smallest of these.
        runtime: The oldest ONNX Runtime that has to load the file, e.g. "1.23"; None: the installed one. It decides for "auto".
        recipe: What the network was trained with; goes into the file.
        preprocessing: From an image to an input; goes into the file.
        classes: Names of the outputs; go into the file.

    Returns:
        What the file says of itself.

    Raises:
        ExportError: If the model has no ranges, holds an operation that has no ONNX form here, or the file cannot be written.
    """
    chosen = Container.parse(container, runtime)
    if isinstance(model, nn.Module):
        if example is None:
            raise ExportError("example is missing; allowed: an input of the model, e.g. torch.zeros(1, 3, 224, 224)")
        program = capture(model, example)
    else:
        program = model
    proto, manifest = to_onnx(program, chosen, recipe=recipe, preprocessing=preprocessing, classes=classes)
    write_whole(Path(path), proto.SerializeToString())
    return manifest


def to_onnx(
    program: Program,
    container: Container,
    *,
    recipe: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[onnx.ModelProto, Manifest]:
    """Gives a program's ONNX model, checked, and what it says of itself; takes what `export_onnx` takes."""
    lowering = Lowering(program, container, OPERATIONS)
    results = lowering.run()
    names = [OUTPUT] if len(results) == 1 else [f"{OUTPUT}{index}" for index in range(len(results))]
    for (name, _), wanted in zip(results, names, strict=True):
        lowering.builder.rename(name, wanted)
    inputs = [_info(INPUT, (None, *program.input_shape))]
    proto = lowering.builder.model(inputs, [_info(name, shape) for name, (_, shape) in zip(names, results, strict=True)], "network")
    manifest = Manifest(
        stillbit=version("stillbit"),
        container=container.kind,
        input=Input(INPUT, program.input_shape),
        output=names[0],
        activations=tuple(lowering.activations),
        layers=tuple(_layers(program, lowering)),
        recipe=None if recipe is None else dict(recipe),
        preprocessing=None if preprocessing is None else dict(preprocessing),
        classes=None if classes is None else tuple(classes),
    )
    helper.set_model_props(proto, {KEY: manifest.to_json()})
    onnx.checker.check_model(proto, full_check=True)
    return proto, manifest


def _layers(program: Program, lowering: Lowering) -> list[Layer]:
    layers = []
    for info in layers_of(program):
        node, stored = lowering.multiplied[info.node]
        codes = None if stored is None else stored.stored
        layers.append(Layer(info.layer, node, info.kind, info.weight, codes, info.bits, info.weights, info.macs))
    return layers


def _info(name: str, shape: Shape) -> onnx.ValueInfoProto:
    sizes: list[int | str] = [_BATCH if size is None else size for size in shape]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)
