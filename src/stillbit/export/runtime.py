"""The runtimes that execute an exported file, behind one call: an array in, arrays by name out."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillbit.errors import ExportError

RUNTIMES = ("onnxruntime", "openvino")
_LONGEST = 300  # characters of a runtime's error that are shown: the last, which say why
# ONNX Runtime's 8-bit kernels on AVX2 add pairs of products in 16 bits, which can saturate; this option makes them not to.
PRECISE = ("session.x64quantprecision", "1")

Array = NDArray[Any]
Session = Callable[[Array], dict[str, Array]]


def open_session(model: Any, runtime: str = "onnxruntime", *, precise: bool = False, where: str = "the file") -> Session:
    """Load an ONNX model into a runtime, on the CPU."""
    if runtime not in RUNTIMES:
        raise ExportError(f"runtime is {runtime!r}; allowed are {', '.join(RUNTIMES)}")
    with refusals(where, runtime):
        session = _onnxruntime(model, precise) if runtime == "onnxruntime" else _openvino(model, precise)

    def run(x: Array) -> dict[str, Array]:
        try:
            return session(x)
        except Exception as error:  # likewise
            raise ExportError(f"{where}: {runtime} cannot run it: {one_line(error)}") from error

    return run


@contextmanager
def refusals(where: str, library: str) -> Iterator[None]:
    """Make one line of what a library says of a model that it does not take."""
    try:
        yield
    except ModuleNotFoundError:  # an extra: the verb names it
        raise
    except Exception as error:  # each library has exceptions of its own
        raise ExportError(f"{where}: {library} refuses it: {one_line(error)}") from error


def runtime_version(runtime: str) -> str:
    """Return a runtime's name and version as they are printed: "ONNX Runtime 1.23.0"."""
    import importlib.metadata

    return f"{'ONNX Runtime' if runtime == 'onnxruntime' else 'OpenVINO'} {importlib.metadata.version(runtime)}"


def with_outputs(model: Any, names: Iterable[str]) -> Any:
    """Return a copy of a model that has uint8 tensors as outputs, too, with no value computed otherwise."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    present = {output.name for output in copied.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            copied.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    return copied


def linked(model: Any, where: str = "the file") -> Any:
    """Return an `onnx_ir.Model` of an ONNX model (`onnx.ModelProto`): its values know what produces and reads them; tensors are shared."""
    import onnx_ir

    with refusals(where, "onnx_ir"):
        return onnx_ir.from_proto(model)


def optimized(model: Any, *, precise: bool = False, where: str = "the file") -> Any:
    """Return the graph that ONNX Runtime makes of a model and runs, as an `onnx_ir.Model`."""
    import onnx_ir

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        with refusals(where, "onnxruntime"):
            _onnxruntime(model, precise, written)
        return onnx_ir.load(written)


def _onnxruntime(model: Any, precise: bool, written: Path | None = None) -> Session:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    if precise:
        options.add_session_config_entry(*PRECISE)
    if written is not None:
        options.optimized_model_filepath = str(written)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name, outputs = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(outputs, session.run(outputs, {name: np.ascontiguousarray(x)}), strict=True))


def _openvino(model: Any, precise: bool) -> Session:
    import openvino

    del precise  # an option of the other runtime
    core = _one_core(openvino.Core)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # else floats are bfloat16 where the processor has it
    compiled = core.compile_model(core.read_model(model=model.SerializeToString()), "CPU", settings)
    names = [output.name for output in model.graph.output]

    def run(x: Array) -> dict[str, Array]:
        found = compiled([np.ascontiguousarray(x)])
        return {name: found[name] for name in names}

    return run


@cache
def _one_core(make: Callable[[], Any]) -> Any:
    """Return OpenVINO's core: one for all sessions, for as long as the process lives.

    The first compilation of a core gives the thread a stack for signals, and its end puts back the one before. Of two cores that end in
    the order in which they began, the second puts back the first's, whose memory is gone: the next signal that Python handles (Ctrl-C,
    SIGTERM, the end of a child) kills the process without a word.
    """
    return make()


def one_line(error: Exception) -> str:
    """Return an error as one line, without the places in a runtime's own source that it passed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    text = "; ".join(lines)
    return f"{type(error).__name__}: {text if len(text) <= _LONGEST else f'... {text[-_LONGEST:]}'}"
