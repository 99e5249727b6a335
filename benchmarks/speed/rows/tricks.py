"""What each trick of the fast path saves alone: time of a training step and bytes kept for backward, without it and with it."""

from collections.abc import Callable
from typing import Any

import stillbit as sb
from benchmarks.speed import networks
from benchmarks.speed.findings import Figure, Findings
from benchmarks.speed.networks import Training
from benchmarks.speed.pairs import race
from benchmarks.speed.settings import Settings
from stillbit.numerics.fast import NEVER, tuned

# Settings that switch a trick off; every number computed stays the same.
TRICKS: dict[str, dict[str, Any]] = {
    "compiled kernels": {"compile": False},
    "values computed again": {"recompute_from": NEVER},
    "small weights in one pass": {"alone_from": 0},
}


def measure(settings: Settings) -> Findings:
    """Race steps of both networks, with freezing, under each setting; a trick saves what the ratio is above 1."""
    found = Findings(
        sizes={"models": [settings.cnn, settings.vit], "batches": [settings.cnn_batch, settings.vit_batch], "device": settings.device}
    )
    for network, build, batch in (("CNN", networks.cnn, settings.cnn_batch), ("transformer", networks.vit, settings.vit_batch)):
        training = Training(build(settings), settings.images(batch))
        sb.Freezing(training.model, threshold=0.1).attach(training.optimizer)
        _race(found, network, training, settings)
    return found


def _race(found: Findings, network: str, training: Training, settings: Settings) -> None:
    kept = training.saved_bytes()
    pairs = {name: (_without(options, training.step), training.step) for name, options in TRICKS.items()}
    for name, times in race(pairs, rounds=settings.rounds, device=settings.device).items():
        found.milliseconds[f"{network} without {name}"] = times.own
        found.milliseconds[f"{network} without {name}: with it, beside it"] = times.reference
        found.figures.append(Figure.of(f"{network}, {name}: step without / with", times.ratios()))
        with tuned(**TRICKS[name]):
            found.figures.append(Figure.of(f"{network}, {name}: bytes saved without / with", [training.saved_bytes() / kept]))


def _without(options: dict[str, Any], step: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with tuned(**options):
            return step()

    return run
