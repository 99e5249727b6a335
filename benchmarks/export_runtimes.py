"""Do other runtimes give the same numbers as the installed ONNX Runtime? Small networks of each family, in each container.

    python -m benchmarks.export_runtimes [--python OTHER/bin/python ...] [--openvino OTHER/bin/python]

Each interpreter needs numpy and its runtime, nothing else. The result keeps the other runtimes that it holds already.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import export_runner
from benchmarks.result import earlier, header, parse, parser, write
from stillbit.export import capture
from stillbit.export.onnx import Container, to_onnx
from tests.export.networks import MODELS, image

OLDEST = (1, 19)
CONTAINERS = {"int8": OLDEST, "packed": OLDEST, "int4": (1, 23)}


def main() -> None:
    """Write the files, run them in each runtime, and write the result."""
    options = parser("export_runtimes", __doc__)
    options.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters with an ONNX Runtime (default: this one)")
    options.add_argument("--openvino", nargs="+", default=[], metavar="PYTHON", help="interpreters with an OpenVINO")
    given = parse(options)
    record = header(given.command, "onnx", "onnxruntime") | {"runtimes": earlier(given.output).get("runtimes", {})}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for runtime, interpreters in (("onnxruntime", given.python), ("openvino", given.openvino)):
            for interpreter in interpreters:
                report = check(Path(folder), interpreter, runtime)
                found = report["found"]
                name = f"{'OpenVINO' if runtime == 'openvino' else 'ONNX Runtime'} {report['version']}"
                record["runtimes"][name] = {"python": report["python"], "largest_difference_relative": found}
                print(f"{name}: {sum(value == 0 for value in found.values())} of {len(found)} files equal to the bit")
                for file, value in found.items():
                    if value != 0:
                        print(f"  {file}: {value}")
    write(given.output, record)


def write_files(folder: Path) -> None:
    """Write each network in each container, and beside it the output of the installed ONNX Runtime."""
    x = image(3)
    np.save(folder / "x.npy", x.numpy())
    for name, make in MODELS.items():
        torch.manual_seed(0)
        program = capture(make(), image())
        for container, runtime in CONTAINERS.items():
            path = folder / f"{name}.{container}.onnx"
            path.write_bytes(to_onnx(program, Container(container, runtime))[0].SerializeToString())
            np.save(path.with_suffix(".npy"), export_runner.run(path, x.numpy()))


def check(folder: Path, interpreter: str, runtime: str) -> dict[str, Any]:
    """Run all files in another interpreter."""
    command = [interpreter, export_runner.__file__, str(folder), runtime]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    return report


if __name__ == "__main__":
    main()
