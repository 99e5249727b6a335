"""Measure how long the report of a long run takes to write, and to open in a headless Chromium.

    python -m benchmarks.report_page [--rounds 7]

The record is synthetic, in the trainer's format: 300 epochs of 5,004 steps, 53 quantized layers of a MobileNetV2's sizes. Each round opens
the page in a new browser with an empty profile, after it has settled. Times run from the start of navigation to the load event, and to the
frame after it, when all charts are drawn. The processor time of the page's main thread is its cost whatever else the machine does.
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.browser import Browser, find_browser
from benchmarks.result import header, parse, parser, write
from stillbit.report import write_report
from stillbit.training.quantizer_figures import bins

EPOCHS, STEPS_PER_EPOCH, LOG_EVERY, OBSERVATIONS, WINDOW = 300, 5004, 50, 60, 100
LAYERS = 53
LOW, HIGH, BITS = -4, 3, 3
LIMIT_SECONDS = 2.0
SETTLING_SECONDS = 3.0  # a browser that has just started is busy
_RENDERED = (
    "addEventListener('load', () => requestAnimationFrame(() => requestAnimationFrame(() => { window.rendered = performance.now(); })))"
)
_TIMES = """
(async () => {
  while (!window.rendered) await new Promise((done) => setTimeout(done, 5));
  const [navigation] = performance.getEntriesByType("navigation");
  return { load_event: navigation.loadEventEnd, rendered: window.rendered };
})()
"""


def write_record(folder: Path, *, epochs: int = EPOCHS, steps_per_epoch: int = STEPS_PER_EPOCH, layers: int = LAYERS) -> None:
    """Write a synthetic record as large as that of a long run."""
    with (folder / "record.jsonl").open("w", encoding="utf-8") as file:
        for number, (event, step, fields) in enumerate(_events(epochs, steps_per_epoch, layers)):
            file.write(json.dumps({"event": event, "step": step, "time": 1.79e9 + number, **fields}) + "\n")


def _events(epochs: int, steps_per_epoch: int, layers: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    generator = np.random.default_rng(0)
    steps = epochs * steps_per_epoch
    yield "start", 0, _start(steps_per_epoch)
    yield "facts", 0, _facts(layers)
    for epoch in range(1, epochs + 1):
        end = epoch * steps_per_epoch
        for step in range(end - steps_per_epoch + LOG_EVERY, end + 1, LOG_EVERY):
            yield "step", step, _step(generator, step / steps)
        top1, loss = 0.7 - 0.5 / epoch, 1.2 + 3 / epoch
        yield "epoch", end, {"epoch": epoch, "train_loss": loss + 0.3, "val_loss": loss, "val_top1": top1, "val_top5": top1 + 0.15}
    yield from _observed(generator, steps, layers)
    names = [f"blocks.{place}.bn" for place in range(layers)]
    before = (10 ** generator.uniform(-3, 1, layers)).tolist()
    yield "batchnorm", steps, {"layers": names, "before": before, "after": [each / 50 for each in before]}
    yield "end", steps, {"status": "complete"}


def _start(steps_per_epoch: int) -> dict[str, Any]:
    recipe = {
        "model": {"name": "mobilenetv2_100"},
        "data": {"name": "folder"},
        "quantization": {"weight_bits": BITS, "activation_bits": BITS, "quantizer": "lsq"},
        "freezing": {"final_threshold": 0.01},
        "training": {"seed": 0, "epochs": EPOCHS},
    }
    versions, hardware = {"python": platform.python_version()}, {"device": "made up"}
    return {
        "recipe": recipe,
        "versions": versions,
        "hardware": hardware,
        "images_per_step": 256,
        "steps_per_epoch": steps_per_epoch,
        "seed": 0,
        "precision": "fp32",
    }


def _facts(layers: int) -> dict[str, Any]:
    told = []
    for place in range(layers):
        shape = [16 * (1 + place // 4), 8 * (1 + place // 4), 1, 1]
        num_bytes = shape[0] * shape[1] * BITS // 8
        plain = {"name": _name(place), "quantizer": "LSQ", "bits": BITS, "low": LOW, "high": HIGH, "shift": 0.0, "shape": shape}
        told.append({**plain, "num_scales": 1, "num_bytes": num_bytes})
    activations = [{"name": f"{_name(place)}.input_quantizer", "bits": BITS} for place in range(layers)]
    return {"layers": told, "activations": activations, "other_bytes": 140_000, "float_bytes": 14_000_000}


def _name(place: int) -> str:
    return f"blocks.{place // 8}.{place % 8 // 3}.{('conv_pw', 'conv_dw', 'conv_pwl')[place % 3]}_{place}"


def _step(generator: np.random.Generator, done: float) -> dict[str, float]:
    noise = float(generator.normal(0, 0.15))
    return {
        "loss": 1.5 + 3 * (1 - done) ** 3 + noise,
        "accuracy": 0.3 + 0.35 * done + noise / 10,
        "learning_rate_0": 0.0033 * (1 - done),
        "learning_rate_1": 1e-5,
        "oscillating": 0.02 * np.sin(3 * done) ** 2,
        "frozen": 0.2 * done,
        "images_per_second": 900 + 100 * noise,
    }


def _observed(generator: np.random.Generator, steps: int, layers: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    start, width, count = bins(BITS, LOW, HIGH)
    starts = {(steps - WINDOW) // 2 + 1, steps - WINDOW + 1}
    for number in range(OBSERVATIONS):
        done = number / (OBSERVATIONS - 1)
        positions = generator.normal(0, 1.2, (layers, 4000))
        positions -= 0.8 * done * (positions - np.round(positions))
        edges = start + width * np.arange(count + 1)
        scales = [0.05 + 0.001 * place + 0.01 * done for place in range(layers)]
        yield (
            "observation",
            round(done * steps),
            {
                "oscillating": [0.05 * done * (place % 3 == 1) + 0.002 * (place % 5) for place in range(layers)],
                "frozen": [0.4 * done * (place % 7) / 7 for place in range(layers)],
                "scale": scales,
                "smallest_scale": scales,
                "largest_scale": scales,
                "activation_scale": [0.5 + 0.02 * place - 0.2 * done for place in range(layers)],
                "histograms": [np.histogram(np.clip(row, edges[0], edges[-1]), edges)[0].tolist() for row in positions],
            },
        )
    for first in sorted(starts):
        told = [{"name": _name(place), "weights": [_trajectory(generator, index) for index in range(4)]} for place in range(layers)]
        yield "trajectories", first + WINDOW - 1, {"first_step": first, "layers": told}


def _trajectory(generator: np.random.Generator, index: int) -> dict[str, Any]:
    positions = 0.5 + 0.02 * np.sign(np.sin(np.arange(WINDOW) * (index + 1) / 2)) + generator.normal(0, 0.004, WINDOW)
    return {"index": index * 97, "frequency": 0.2 / (index + 1), "positions": positions.round(5).tolist()}


def open_once(program: str, page: Path, width: int, height: int) -> dict[str, float]:
    """Open a page in a new browser, and return the times in milliseconds."""
    with Browser(program, width, height) as browser:
        time.sleep(SETTLING_SECONDS)
        browser.send("Performance.enable", timeDomain="threadTicks")
        browser.send("Page.addScriptToEvaluateOnNewDocument", source=_RENDERED)
        browser.open(page.as_uri())
        found: dict[str, float] = browser.evaluate(_TIMES)
        metrics = {one["name"]: one["value"] for one in browser.send("Performance.getMetrics")["metrics"]}
        assert not browser.complaints(), browser.complaints()
    return {**found, "main_thread_cpu": 1000 * metrics["TaskDuration"]}


def measure(program: str, rounds: int) -> dict[str, Any]:
    """Write the record and its report, and open the report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_record(folder)
        started = time.perf_counter()
        page = write_report([folder])
        seconds = time.perf_counter() - started
        windows = {"desktop 1280x900": (1280, 900), "phone 390x844": (390, 844)}
        times = {title: [open_once(program, page, *size) for _ in range(rounds)] for title, size in windows.items()}
        sizes = {"record_mb": (folder / "record.jsonl").stat().st_size / 1e6, "page_mb": page.stat().st_size / 1e6}
    opened = {title: {key: _summary([one[key] for one in found]) for key in found[0]} for title, found in times.items()}
    return {**{key: round(value, 2) for key, value in sizes.items()}, "write_seconds": round(seconds, 2), "opened_ms": opened}


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 1), "range": [round(min(values), 1), round(max(values), 1)]}


def main() -> None:
    """Measure, and write and print the result."""
    options = parser("report_page", __doc__)
    options.add_argument("--rounds", type=int, default=7, help="pages opened per window size (default: 7)")
    given = parse(options)
    program = find_browser()
    if program is None:
        sys.exit("no Chromium or Chrome is installed")
    record = header(given.command)
    record["versions"]["browser"] = _version(program)
    found = measure(program, given.rounds)
    slowest = max(one["rendered"]["range"][1] for one in found["opened_ms"].values())
    record |= {
        "run": f"{EPOCHS} epochs of {STEPS_PER_EPOCH} steps, {LAYERS} layers",
        "rounds": given.rounds,
        **found,
        "slowest_rendered_seconds": round(slowest / 1000, 2),
        "limit_seconds": LIMIT_SECONDS,
    }
    write(given.output, record)
    print(json.dumps(record, indent=1))


def _version(program: str) -> str:
    with Browser(program) as browser:
        return str(browser.send("Browser.getVersion")["product"])


if __name__ == "__main__":
    main()
