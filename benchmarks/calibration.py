"""Times the calibration of MobileNetV2 (W4A4, MSE grid of 100 candidates) by part; writes a JSON record and prints a summary.

    python benchmarks/calibration.py --runs 3 --output benchmarks/results/calibration.json

The images are random: the time depends on shapes alone. Parts overlap nowhere: "search" is the time inside range estimators,
"forward" the rest of the passes (layers and fake quantization), "compile_seconds" what the first of two equal batches costs over the
second. "cpu" is processor time, all threads together: on a shared machine total / (cpu / threads) says how much of the wall clock others
took. So does the load average before each run.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from stillbit.numerics.range_estimator import RangeEstimator
from stillbit.prepare import QuantConfig, calibrate, prepare


def main() -> None:
    """Runs the benchmark."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    first = run(options, batches=1)
    again = run(options, batches=1)
    runs = [run(options, batches=options.batches) for _ in range(options.runs)]
    record = {
        "command": f"python benchmarks/calibration.py --runs {options.runs} --batches {options.batches} --batch-size {options.batch_size}",
        "hardware": f"{processor()}, {options.threads} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
        "model": f"{options.model}, {options.batch_size} x 3 x {options.size} x {options.size}, {options.batches} batches, W4A4",
        "compile_seconds": round(first["total"] - again["total"], 2),
        "runs": runs,
        "median": {part: round(statistics.median(one[part] for one in runs), 2) for part in runs[0]},
        "spread": {part: round(max(one[part] for one in runs) - min(one[part] for one in runs), 2) for part in runs[0]},
        "elements": elements(options),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def run(options: argparse.Namespace, *, batches: int) -> dict[str, float]:
    """Calibrates a fresh model; gives the seconds by part, and the load average before."""
    model = prepared_model(options)
    with stopwatch(RangeEstimator, "update") as search:
        load, begin, begin_cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
        calibrate(model, images(options, batches), batches=batches)
        total, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    parts = {"total": total, "search": sum(search), "forward": total - sum(search), "cpu": cpu, "load_average": load}
    return {part: round(seconds, 2) for part, seconds in parts.items()}


def prepared_model(options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(options.model, pretrained=False)
    prepare(model, QuantConfig.parse("W4A4"), example=torch.zeros(1, 3, options.size, options.size))
    return model


def images(options: argparse.Namespace, batches: int) -> Iterator[tuple[Tensor]]:
    for _ in range(batches):
        yield (torch.randn(options.batch_size, 3, options.size, options.size),)


def elements(options: argparse.Namespace) -> dict[str, int]:
    """Counts what the search sees: activations of all batches, and weights once."""
    coverage = prepare(
        timm.create_model(options.model, pretrained=False),
        QuantConfig.parse("W4A4"),
        example=torch.zeros(1, 3, options.size, options.size),
    )
    per_image = sum(torch.Size(one.shape).numel() for one in coverage.activations)
    weights = sum(torch.Size(one.shape).numel() for one in coverage.weights)
    return {"activations": per_image * options.batch_size * options.batches, "weights": weights}


@contextmanager
def stopwatch(owner: type, method: str) -> Iterator[list[float]]:
    """Collects the seconds of each call of a method."""
    original = getattr(owner, method)
    seconds: list[float] = []

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = original(*arguments)
        seconds.append(time.perf_counter() - begin)
        return result

    setattr(owner, method, timed)
    try:
        yield seconds
    finally:
        setattr(owner, method, original)


def processor() -> str:
    information = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in information.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.processor()


if __name__ == "__main__":
    main()
