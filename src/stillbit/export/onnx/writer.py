"""A program as an ONNX model, with a description of itself."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import onnx
from onnx import helper

from stillbit.export.layers import layers_of
from stillbit.export.manifest import KEY, Input, Layer, Manifest
from stillbit.export.onnx.containers import Container
from stillbit.export.onnx.lowering import Lowering
from stillbit.export.onnx.operations import OPERATIONS
from stillbit.export.onnx.value import Shape
from stillbit.export.program import INPUT, Program

OUTPUT = "logits"
_BATCH = "batch"


def to_onnx(
    program: Program,
    container: Container,
    *,
    exact: bool = False,
    recipe: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[onnx.ModelProto, Manifest]:
    """Return a program's ONNX model, checked, and what it says of itself; the rest is as for `export_onnx`."""
    lowering = Lowering(program, container, OPERATIONS, exact=exact)
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
        notes=tuple(_note(label, exact=exact) for label in lowering.inexact),
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


def _note(label: str, *, exact: bool) -> str:
    if exact:
        return f"{label}: runs in floats, because no bias in whole units of its accumulator gives the exact codes"
    return f"{label}: no bias in whole units of its accumulator gives all codes exactly; a few are one step off (exact: in floats)"


def _info(name: str, shape: Shape) -> onnx.ValueInfoProto:
    sizes: list[int | str] = [_BATCH if size is None else size for size in shape]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)
