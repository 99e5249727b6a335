"""Do other versions of ONNX Runtime give the same numbers? Small networks of each family, in each container.

    python -m benchmarks.export_runtimes write FOLDER        # here: files for ONNX Runtime 1.19, and what the installed one gives
    OTHER/bin/python benchmarks/export_runtimes.py check FOLDER      # in an environment that needs numpy and onnxruntime alone
    python -m benchmarks.export_runtimes openvino FOLDER     # where OpenVINO is installed

Adds what it finds to benchmarks/results/export_runtimes.json, by runtime.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

RESULTS = Path(__file__).parent / "results" / "export_runtimes.json"
OLDEST = (1, 19)
CONTAINERS = {"int8": OLDEST, "packed": OLDEST, "int4": (1, 23)}


def write(folder: Path) -> None:
    import torch

    from stillbit.export import capture
    from stillbit.export.onnx import Container, to_onnx
    from tests.export.networks import MODELS, image

    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", image(3).numpy())
    for name, make in MODELS.items():
        torch.manual_seed(0)
        program = capture(make(), image())
        for container, runtime in CONTAINERS.items():
            path = folder / f"{name}.{container}.onnx"
            path.write_bytes(to_onnx(program, Container(container, runtime))[0].SerializeToString())
            np.save(path.with_suffix(".npy"), run(path, image(3).numpy()))


def run(path: Path, x: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def run_openvino(path: Path, x: Any) -> Any:
    import openvino

    core = openvino.Core()
    return core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]


def check(folder: Path, execute: Callable[[Path, Any], Any]) -> dict[str, str | float]:
    x, found = np.load(folder / "x.npy"), {}
    for path in sorted(folder.glob("*.onnx")):
        expected = np.load(path.with_suffix(".npy"))
        try:
            found[path.stem] = float(np.abs(execute(path, x) - expected).max() / np.abs(expected).max())
        except Exception as error:  # what a runtime refuses is a finding
            found[path.stem] = " ".join(str(error).split())[-160:]
    return found


def main() -> None:
    verb, folder = sys.argv[1], Path(sys.argv[2])
    if verb == "write":
        write(folder)
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = check(folder, run_openvino if verb == "openvino" else run)
    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    if verb == "openvino":
        from importlib.metadata import version

        runtime = f"OpenVINO {version('openvino')}"
    record[runtime] = {"python": sys.version.split()[0], "largest_difference_relative": found}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    equal = sum(value == 0 for value in found.values())
    print(f"{runtime}: {equal} of {len(found)} files equal to the bit")
    for name, value in found.items():
        if value != 0:
            print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
