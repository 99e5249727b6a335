"""What a file says, as against what a runtime makes of it: each operation by itself, in floats, on the codes that the runtime gave.

A code that differs from the trained network's is then either the file's own rounding (a bias in whole units of an accumulator) or a
kernel's.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from stillbit.export.runtime import Array, refusals

_GIVEN = "/given"

Written = Callable[[Array, Mapping[str, Array]], dict[str, Array]]


def as_written(model: Any, names: Iterable[str], where: str = "the file") -> Written:
    """Load an ONNX model (`onnx.ModelProto`) without fusing, cut at codes."""
    import onnxruntime

    names = list(dict.fromkeys(names))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    with refusals(where, "onnxruntime"):
        session = onnxruntime.InferenceSession(_cut(model, names).SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = model.graph.input[0].name

    def run(x: Array, given: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {image: np.ascontiguousarray(x), **{f"{name}{_GIVEN}": np.ascontiguousarray(given[name]) for name in names}}
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run


def _cut(model: Any, names: list[str]) -> Any:
    import onnx_ir

    copied = onnx_ir.from_proto(model)
    values = onnx_ir.convenience.create_value_mapping(copied.graph)
    copied.graph.outputs.clear()
    for name in names:
        given = onnx_ir.val(f"{name}{_GIVEN}", onnx_ir.DataType.UINT8)
        values[name].replace_all_uses_with(given)
        values[name].dtype = onnx_ir.DataType.UINT8
        copied.graph.inputs.append(given)
        copied.graph.outputs.append(values[name])
    return onnx_ir.to_proto(copied)
