"""How many kernels both networks compile, and the time that takes before the second step.

Needs a process of its own with an empty compiler cache. A kernel that is compiled again for other sizes counts again.
"""

import time
from collections import Counter

import stillbit as sb
from benchmarks.speed import networks
from benchmarks.speed.findings import COUNT, SECONDS, Figure, Findings
from benchmarks.speed.networks import Training
from benchmarks.speed.pairs import milliseconds
from benchmarks.speed.settings import Settings
from stillbit.numerics.fast import num_compiled


def measure(settings: Settings) -> Findings:
    """Prepare, calibrate and train both networks one after the other, then add freezing to the CNN."""
    found = Findings(sizes={"models": [settings.cnn, settings.vit], "device": settings.device})
    extra = []
    for name, build, batch in ((settings.cnn, networks.cnn, settings.cnn_batch), (settings.vit, networks.vit, settings.vit_batch)):
        images = settings.images(batch)
        begin = time.perf_counter()
        training = Training(build(settings), images)
        ready, calibrated = time.perf_counter() - begin, num_compiled()
        begin = time.perf_counter()
        build(settings)
        again = time.perf_counter() - begin
        first = milliseconds(training.step) / 1e3
        later = sorted(milliseconds(training.step) / 1e3 for _ in range(5))
        extra.append(first - later[2] + ready - again)
        found.notes.append(f"{name}: calibration {ready:.1f} s, then {again:.1f} s; first step {first:.1f} s, then {later[2]:.2f} s")
        found.notes.append(f"graphs so far: {listed(calibrated)} after its calibration, {listed(num_compiled())} after its steps")
        if name == settings.cnn:
            cnn = training
    total = num_compiled().total()
    sb.Freezing(cnn.model, threshold=0.1).attach(cnn.optimizer)
    for _ in range(2):
        cnn.step()
    found.figures = [
        Figure.of("compiled kernel variants, both networks", [total], unit=COUNT, target=12),
        Figure.of("added by freezing", [num_compiled().total() - total], unit=COUNT),
        Figure.of("cold start, CNN: calibration and first step over warm ones", [extra[0]], unit=SECONDS, target=30),
        Figure.of("cold start, transformer after it", [extra[1]], unit=SECONDS, target=30),
        Figure.of("cold start, both", [sum(extra)], unit=SECONDS),
    ]
    return found


def listed(graphs: Counter[str]) -> str:
    """Return the counts on one line."""
    return f"{graphs.total()} ({', '.join(f'{number} {name}' for name, number in sorted(graphs.items()))})" if graphs else "0"
