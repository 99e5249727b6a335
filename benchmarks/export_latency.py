"""How long exported files take in ONNX Runtime: float32 against W4A4 in each container, in one process, in turn.

    python -m benchmarks.export_latency [--only NAME,...] [--rounds N]

For each network: the float network with its norms folded, written by the same exporter, and W4A4 under `integer` (transformers: plain
attention, one scale per tensor) in int8, int4 and packed containers; batch 1 and 8; 1 and 2 threads. A round calls each file once. The
result holds medians over the rounds, and the median and range of the rounds' ratios to float32.
"""

import json
import statistics
import time
import warnings
from typing import Any

import onnxruntime
import torch

from benchmarks.export_networks import CNNS, VITS, float_model, photos, quantized, settings
from benchmarks.result import earlier, header, parse, parser, write
from stillbit.export import capture
from stillbit.export.capture import trace
from stillbit.export.onnx import to_onnx
from stillbit.export.onnx.containers import Container
from stillbit.export.simplify import simplify

CONTAINERS = ("int8", "int4", "packed")


def main() -> None:
    """Time each network, and write each row as it comes."""
    options = parser("export_latency", __doc__)
    options.add_argument("--only", default=",".join([*CNNS, *VITS]), help="names of networks (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=15, help="timed rounds (default: 15)")
    options.add_argument("--policies", default="integer", help="of convolutional networks (default: integer)")
    given = parse(options)
    warnings.filterwarnings("ignore")
    images = photos(None, 8)
    record = header(given.command, "timm", "onnx", "onnxruntime")
    record |= {"rounds": given.rounds, "rows": earlier(given.output).get("rows", {})}
    for name in given.only.split(","):
        files = written(name, images, given.policies.split(","))
        for batch in (1, 8):
            for threads in (1, 2):
                key = f"{name} batch {batch} threads {threads}"
                record["rows"][key] = row = race(files, images[:batch].numpy(), threads, given.rounds)
                print(key, json.dumps(row), flush=True)
                write(given.output, record)


def written(name: str, images: torch.Tensor, policies: list[str]) -> dict[str, bytes]:
    """Return the float file and the quantized ones."""
    with torch.no_grad():
        whole = simplify(trace(float_model(name, images), images[:2]), tuple(images.shape[1:]))
    files = {"float32": to_onnx(whole, Container())[0].SerializeToString()}
    for setting in policies if name in CNNS else ["plain-tensor"]:
        program = capture(quantized(name, settings(name)[setting]("W4A4"), images), images[:1])
        label = "" if len(policies) == 1 else f" {setting}"
        files |= {f"{kind}{label}": to_onnx(program, Container(kind))[0].SerializeToString() for kind in CONTAINERS}
    return files


def race(files: dict[str, bytes], x: Any, threads: int, rounds: int) -> dict[str, Any]:
    """Time one call of each file in turn, round by round."""
    sessions = {kind: session(content, threads) for kind, content in files.items()}
    for one in sessions.values():
        for _ in range(3):
            one.run(None, {"x": x})
    times: dict[str, list[float]] = {kind: [] for kind in sessions}
    for _ in range(rounds):
        for kind, one in sessions.items():
            begin = time.perf_counter()
            one.run(None, {"x": x})
            times[kind].append(1000 * (time.perf_counter() - begin))
    found: dict[str, Any] = {}
    for kind, taken in times.items():
        ratios = [whole / own for whole, own in zip(times["float32"], taken, strict=True)]
        found[kind] = {
            "milliseconds": round(statistics.median(taken), 3),
            "faster": round(statistics.median(ratios), 3),
            "from": round(min(ratios), 3),
            "to": round(max(ratios), 3),
            "bytes": len(files[kind]),
        }
    return found


def session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads of one file would take the other's cores
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
