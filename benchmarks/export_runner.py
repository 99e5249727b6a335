"""Run the ONNX files of a folder and print, as JSON, how far each output is from the expected one beside it.

`export_runtimes.py` calls this file in environments that hold numpy and a runtime, and nothing else.
"""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np


def run(path: Path, x: Any) -> Any:
    """Return the output of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def run_openvino(path: Path, x: Any) -> Any:
    """Return the output of OpenVINO."""
    import openvino

    core = openvino.Core()
    return core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]


def main() -> None:
    """Run the files of `FOLDER` in `RUNTIME`, the arguments of this script."""
    folder, runtime = Path(sys.argv[1]), sys.argv[2]
    execute = {"onnxruntime": run, "openvino": run_openvino}[runtime]
    x, found = np.load(folder / "x.npy"), {}
    for path in sorted(folder.glob("*.onnx")):
        expected = np.load(path.with_suffix(".npy"))
        try:
            found[path.stem] = float(np.abs(execute(path, x) - expected).max() / np.abs(expected).max())
        except Exception as error:  # a refusal is a finding
            found[path.stem] = " ".join(str(error).split())[-160:]
    print(json.dumps({"version": importlib.metadata.version(runtime), "python": platform.python_version(), "found": found}))


if __name__ == "__main__":
    main()
