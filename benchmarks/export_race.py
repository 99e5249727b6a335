"""Two forms of one network, which is faster in ONNX Runtime? For a change of the writer: files of before and after.

    python -m benchmarks.export_race LABEL BEFORE.onnx AFTER.onnx

Both are called in turn on the same input, on one thread; what counts is the processor's time of this process, so that others on the machine
disturb little. Adds medians, the median and quartiles of the rounds' ratios, and whether the outputs are bit-equal, to
benchmarks/results/export_race.json, by label.
"""

import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.export_latency import session
from benchmarks.speed.record import commit, hardware

RESULTS = Path(__file__).parent / "results" / "export_race.json"
ROUNDS = 41


def race(before: bytes, after: bytes, rounds: int = ROUNDS) -> dict[str, Any]:
    """Times two files in turn."""
    sessions = [session(content, 1) for content in (before, after)]
    given = sessions[0].get_inputs()[0]
    x = np.random.default_rng(0).standard_normal([size if isinstance(size, int) else 1 for size in given.shape]).astype(np.float32)
    outputs = [one.run(None, {given.name: x})[0] for one in sessions]
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        taken = {}
        for place in (0, 1) if number % 2 else (1, 0):
            begin = time.process_time()
            sessions[place].run(None, {given.name: x})
            taken[place] = 1000 * (time.process_time() - begin)
        times.append((taken[0], taken[1]))
    ratios = [first / second for first, second in times]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "milliseconds_before": round(statistics.median(first for first, _ in times), 3),
        "milliseconds_after": round(statistics.median(second for _, second in times), 3),
        "faster": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "bytes": [len(before), len(after)],
        "equal_to_the_bit": bool(np.array_equal(*outputs)),
    }


def main() -> None:
    label, before, after = sys.argv[1:]
    found = race(Path(before).read_bytes(), Path(after).read_bytes())
    record: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"races": {}}
    record |= {"command": "python -m benchmarks.export_race LABEL BEFORE.onnx AFTER.onnx", "hardware": hardware(), "commit": commit()}
    record |= {"rounds": ROUNDS, "onnxruntime": version("onnxruntime"), "what": "processor time, one thread, batch 1"}
    record["races"][label] = found
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(label, json.dumps(found))


if __name__ == "__main__":
    main()
