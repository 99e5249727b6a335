"""What a file says, as against what a runtime makes of it: each operation by itself, in floats, on the codes that the runtime gave.

A code that differs from the trained network's is then either the file's own rounding (a bias in whole units of an accumulator) or a
kernel's.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from stillbit.errors import ExportError
from stillbit.export.runtime import Array, one_line

_GIVEN = "/given"

Written = Callable[[Array, Mapping[str, Array]], dict[str, Array]]


def as_written(model: Any, names: Iterable[str], where: str = "the file") -> Written:
    """Load an ONNX model (`onnx.ModelProto`) such that nothing is fused, cut at codes."""
    import onnxruntime

    names = list(dict.fromkeys(names))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(_cut(model, names).SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has exceptions of its own
        raise ExportError(f"{where}: onnxruntime refuses it: {one_line(error)}") from error
    image = model.graph.input[0].name

    def run(x: Array, given: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {image: np.ascontiguousarray(x), **{f"{name}{_GIVEN}": np.ascontiguousarray(given[name]) for name in names}}
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run


def _cut(model: Any, names: list[str]) -> Any:
    import onnx

    copied, cut = onnx.ModelProto(), set(names)
    copied.CopyFrom(model)
    for node in copied.graph.node:
        for index, name in enumerate(node.input):
            if name in cut:
                node.input[index] = f"{name}{_GIVEN}"
    for name in names:
        copied.graph.input.append(onnx.helper.make_tensor_value_info(f"{name}{_GIVEN}", onnx.TensorProto.UINT8, None))
        copied.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    del copied.graph.output[: len(model.graph.output)]
    return copied
