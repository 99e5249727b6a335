"""Measures fake quantization, forward and backward, against its eager twin, the usual chain of eager operations, and a plain copy.

    python benchmarks/fake_quantize.py [--elements 10000000] [--rounds 9] [--note "what else the machine was doing"]

All run in turn, round by round, so that a machine that slows down slows all. Writes benchmarks/results/fake_quantize_<date>.json.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from stillbit.numerics import Grid, fake_quantize, kernels

LOW, HIGH = -8, 7
RESULTS = Path(__file__).parent / "results"
Pass = Callable[[Tensor, Tensor], Tensor]


def fused(x: Tensor, scale: Tensor) -> Tensor:
    """As users get it: compiled."""
    return fake_quantize(x, Grid(scale, 0, 0.0, LOW, HIGH))


def eager_chain(x: Tensor, scale: Tensor) -> Tensor:
    """One operation after the other, with a straight-through rounding by `detach`."""
    position = x / scale
    rounded = position + (position.round() - position).detach()
    return rounded.clamp(LOW, HIGH) * scale


def copy(x: Tensor, scale: Tensor) -> Tensor:
    """The least that any function of as many bytes costs."""
    del scale
    return x.clone()


def time_once(function: Pass, x: Tensor, scale: Tensor, upstream: Tensor) -> tuple[float, float]:
    """Gives the milliseconds of one forward and one backward pass."""
    x.grad = scale.grad = None
    begin = time.perf_counter()
    output = function(x, scale)
    synchronize(x)
    middle = time.perf_counter()
    output.backward(upstream)
    synchronize(x)
    return 1e3 * (middle - begin), 1e3 * (time.perf_counter() - middle)


def synchronize(x: Tensor) -> None:
    """Waits for a GPU."""
    if x.is_cuda:
        torch.cuda.synchronize()


def measure(num_elements: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Gives all times of each contender, in milliseconds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(num_elements, device=device, requires_grad=True)
    scale = torch.tensor([0.2], device=device, requires_grad=True)
    upstream = torch.randn(num_elements, device=device)
    contenders = {"fused": fused, "eager twin": fused, "eager chain": eager_chain, "copy": copy}
    times: dict[str, dict[str, list[float]]] = {name: {"forward_ms": [], "backward_ms": []} for name in contenders}
    for round_number in range(-2, rounds):  # two to warm up
        for name, function in contenders.items():
            never = mock.patch.object(kernels, "_COMPILE_FROM", num_elements + 1 if name == "eager twin" else kernels._COMPILE_FROM)
            with never:
                forward_ms, backward_ms = time_once(function, x, scale, upstream)
            if round_number >= 0:
                times[name]["forward_ms"].append(round(forward_ms, 2))
                times[name]["backward_ms"].append(round(backward_ms, 2))
    return times


def hardware() -> str:
    """Gives the name of what the arithmetic ran on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu_info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu_info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Measures, writes the record and prints the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--elements", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    times = measure(options.elements, options.rounds)
    medians = {name: {key: statistics.median(values) for key, values in each.items()} for name, each in times.items()}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    record = {
        "command": "python benchmarks/fake_quantize.py " + " ".join(sys.argv[1:]),
        "date": today,
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "elements": options.elements,
        "rounds": options.rounds,
        "load_average_before": load_before,
        "note": options.note,
        "median_ms": medians,
        "spread_ms": {name: {key: [min(values), max(values)] for key, values in each.items()} for name, each in times.items()},
        "times_ms": times,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"fake_quantize_{today}.json").write_text(json.dumps(record, indent=1) + "\n")
    for name, each in medians.items():
        print(f"{name:12s} forward {each['forward_ms']:8.2f} ms   backward {each['backward_ms']:8.2f} ms")


if __name__ == "__main__":
    main()
