"""ONNX Runtime for the tests of this folder."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

from stillbit.export import Program
from stillbit.export.manifest import Manifest
from stillbit.export.ops import code_of
from stillbit.export.program import operation_name


def run(proto: onnx.ModelProto, x: Any, *, watch: tuple[str, ...] = (), optimized: bool = True) -> list[Any]:
    """Return the outputs, and the uint8 tensors that are watched."""
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    watched.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in watch)
    return session(watched, optimized=optimized).run(None, {"x": np.asarray(x)})


def session(proto: onnx.ModelProto, *, optimized: bool = True, saved: str = "") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    if saved:
        options.optimized_model_filepath = saved
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def kernels(proto: onnx.ModelProto, folder: Any) -> list[str]:
    """Return the operators that the runtime has made of a graph."""
    saved = str(folder / "optimized.onnx")
    session(proto, saved=saved)
    return [node.op_type for node in onnx.load(saved).graph.node]


class Forced(torch.fx.Interpreter):
    """Runs a program with what a file's quantizers gave in place of its own: each is judged on the file's own input to it.

    Attributes:
        steps: By name of call, how far the file's codes are from the program's.
    """

    def __init__(self, program: Program, codes: dict[str, list[Any]]) -> None:
        super().__init__(program.module)
        self.steps: dict[str, torch.Tensor] = {}
        self._codes = codes

    def run_node(self, n: torch.fx.Node) -> Any:
        if operation_name(n.target) != "stillbit.fake_quantize.default":
            return super().run_node(n)
        given = self.fetch_args_kwargs_from_env(n)[0]
        own = code_of(*given)
        codes, order = self._codes[given[-1]].pop(0)
        order = order or tuple(range(own.dim()))
        codes = codes.astype(np.float32).reshape([own.shape[axis] for axis in order]).transpose(np.argsort(order))
        found = torch.from_numpy(np.ascontiguousarray(codes))
        self.steps[n.name] = (found - own).abs()
        return given[1] * (found - (0 if given[2] is None else given[2]))


def forced(program: Program, manifest: Manifest, x: torch.Tensor, codes: list[Any]) -> tuple[dict[str, torch.Tensor], Any]:
    """Return the steps by which each quantizer's codes differ, and the output that follows from the file's codes."""
    by_label: dict[str, list[Any]] = {}
    for entry, found in zip(manifest.activations, codes, strict=True):
        by_label.setdefault(entry.quantizer, []).append((found.astype(np.int64) - entry.offset, entry.permutation))
    run_with = Forced(program, by_label)
    with torch.no_grad():
        output = run_with.run(x)
    return run_with.steps, output
