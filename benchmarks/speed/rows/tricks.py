"""What each trick of the fast path earns alone: a training step, and the bytes it saves for backward, without it and with it."""

from collections.abc import Callable
from typing import Any

import stillbit as sb
from benchmarks.speed import networks
from benchmarks.speed.findings import Figure, Findings
from benchmarks.speed.networks import Training
from benchmarks.speed.pairs import race
from benchmarks.speed.settings import Settings
from stillbit.numerics.fast import NEVER, tuned

# Settings under which a trick is off; every number computed stays the same.
TRICKS: dict[str, dict[str, Any]] = {
    "compiled kernels": {"compile": False},
    "values computed again": {"recompute_from": NEVER},
    "workspace": {"workspace_from": NEVER},
    "small weights in one pass": {"alone_from": 0},
}


def measure(settings: Settings) -> Findings:
    """Race steps of one network, with freezing, under each setting; a trick earns what the ratio is above 1."""
    training = Training(networks.cnn(settings), settings.images(settings.cnn_batch))
    sb.Freezing(training.model, threshold=0.1).attach(training.optimizer)
    found = Findings(sizes={"model": settings.cnn, "images": list(training.images.shape), "device": settings.device})
    kept = training.saved_bytes()
    pairs = {name: (_without(options, training.step), training.step) for name, options in TRICKS.items()}
    for name, times in race(pairs, rounds=settings.rounds, device=settings.device).items():
        found.milliseconds[f"without {name}"] = times.own
        found.milliseconds[f"without {name}: with it, beside it"] = times.reference
        found.figures.append(Figure.of(f"{name}: step without / with", times.ratios()))
        with tuned(**TRICKS[name]):
            found.figures.append(Figure.of(f"{name}: bytes saved without / with", [training.saved_bytes() / kept]))
    return found


def _without(options: dict[str, Any], step: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with tuned(**options):
            return step()

    return run
