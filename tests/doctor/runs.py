"""Records of runs that went wrong, each next to the healthy one that it was made from."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillbit.doctor.subjects import RunSubject
from stillbit.report.history import LayerFacts, LayerHistory, RunHistory, Series

EPOCHS, STEPS_PER_EPOCH, LOGGED = 10, 100, 50
NONE = Series((), ())


def over_steps(values: Sequence[float]) -> Series:
    return Series(tuple((place + 1) * 20 for place in range(len(values))), tuple(values))


def over_epochs(values: Sequence[float]) -> Series:
    return Series(tuple(place * STEPS_PER_EPOCH for place in range(len(values))), tuple(values))


def line(first: float, last: float, count: int = LOGGED) -> list[float]:
    return [first + (last - first) * place / (count - 1) for place in range(count)]


def layer(scale: float) -> LayerHistory:
    facts = LayerFacts("conv", "LSQ", 3, -4, 3, 0.0, (8, 8), 64, 1, 24)
    size = over_epochs([scale, scale])
    return LayerHistory(facts, NONE, NONE, size, size, size, (), ())


STEPS = {
    "loss": line(2.0, 0.2),
    "accuracy": line(0.2, 0.9),
    "learning_rate_0": line(0.01, 0.0),
    "learning_rate_1": line(1e-4, 1e-4),
    "oscillating": line(0.03, 0.005),
}
EVALUATED = {
    "val_top1": line(0.3, 0.8, EPOCHS + 1),
    "val_top1_before_reestimation": line(0.3, 0.8, EPOCHS + 1),
    "val_count": [1000.0] * (EPOCHS + 1),
}
RECIPE: dict[str, Any] = {
    "model": {"weights": "float.pt"},
    "quantization": {"weight_bits": 3},
    "optimizer": {"name": "sgd", "lr": 0.01},
    "scale_optimizer": {"name": "adam", "lr": 1e-4},
    "training": {"epochs": EPOCHS, "cooldown_epochs": 0, "reestimate_batches": 50},
}


def run(
    *,
    status: str = "complete",
    reason: str = "",
    recipe: Mapping[str, Any] | None = None,
    steps: Mapping[str, Sequence[float]] | None = None,
    epochs: Mapping[str, Sequence[float]] | None = None,
    **settings: Any,
) -> RunSubject:
    history = RunHistory(
        name="run",
        folder=Path("runs/run"),
        recipe={**RECIPE, **(recipe or {})},
        versions={},
        hardware={},
        images_per_step=64,
        steps_per_epoch=STEPS_PER_EPOCH,
        status=status,
        reason=reason,
        seconds=60.0,
        steps={name: over_steps(values) for name, values in {**STEPS, **(steps or {})}.items()},
        epochs={name: over_epochs(values) for name, values in {**EVALUATED, **(epochs or {})}.items()},
        layers=(layer(0.05),),
        activations=(),
        batchnorms=(),
        other_bytes=0,
        float_bytes=0,
    )
    known: dict[str, Any] = {"has_batchnorm": True, "num_classes": 10, "idle_seconds": 7200.0}
    return RunSubject(history, **(known | settings))


FREEZING = {"freezing": {"threshold": 0.1, "final_threshold": 0.01, "ema_momentum": 0.001}}
DAMPENING = {"dampening": {"final_weight": 0.1}}
ANNEALING = {"annealing": {"epochs": 0, "boundary_range": 0.005}}
TREATED = {
    "frozen": line(0.0, 0.08),
    "dampening_weight": [0.0] * 10 + line(0.0, 0.1, LOGGED - 10),
    "dampening_loss": [0.0] * 10 + line(0.0, 0.1, LOGGED - 10),
    "free": line(1.0, 0.01),
}


def treated(steps: Mapping[str, Sequence[float]] | None = None, **recipe: Any) -> RunSubject:
    return run(recipe={**FREEZING, **DAMPENING, **ANNEALING, **recipe}, steps={**TREATED, **(steps or {})})


def with_scale(size: float) -> RunSubject:
    healthy = run()
    return replace(healthy, history=replace(healthy.history, layers=(layer(size),)))


def fallen() -> list[float]:
    return [*line(0.3, 0.8, 6), 0.12, 0.11, 0.1, 0.11, 0.1]


def restless() -> RunSubject:
    return treated({"oscillating": line(0.1, 0.1)})  # many, though no more than before, and freezing is at work


HEALTHY: dict[str, Callable[[], RunSubject]] = {"plain": run, "treated": treated, "restless": restless}

# Rule -> what triggers it, where, and a part of what is said then; the healthy runs trigger none.
ILL: dict[str, tuple[Callable[[], RunSubject], str, str]] = {
    "diverged": (
        lambda: run(status="DivergedError", reason="step 120: the loss is not finite, first at output of blocks.0.conv"),
        "step 120",
        "the loss is not finite, first at output of blocks.0.conv",
    ),
    "checkpoint-unreadable": (lambda: run(unreadable="cut or damaged (at data.pkl)"), "last.pt", "cut or damaged (at data.pkl)"),
    "failed": (
        lambda: run(status="DataError", reason="batch 3: none of its images can be read"),
        "step 1000",
        "ended by DataError: batch 3",
    ),
    "figure-not-finite": (lambda: run(steps={"loss": [*line(2.0, 1.0, 30), *[math.nan] * 20]}), "step 620", "loss is not finite, 20 times"),
    "collapsed": (lambda: run(epochs={"val_top1": fallen()}), "step 600", "top-1 fell from 80.0% to 12.0%, and is 10.0% at the end"),
    "at-chance": (lambda: run(epochs={"val_top1": line(0.1, 0.11, 11)}), "step 1000", "top-1 is 11.0% after 1000 steps, chance is 10.0%"),
    "unfinished": (lambda: run(status="unfinished"), "step 1000", "2 hours ago: the process was killed"),
    "loss-not-falling": (
        lambda: run(steps={"loss": line(1.0, 1.2), "accuracy": line(0.5, 0.5)}, epochs={"val_top1": [0.5] * 11}),
        "loss of training",
        "mean of the first third 1.031, of the last 1.169; accuracy 50.0% and 50.0%",
    ),
    "images-skipped": (lambda: run(skipped=("a.png", "b.png")), "data", "2 images cannot be read, first a.png"),
    "random-start": (lambda: run(recipe={"model": {"weights": "random"}}), "model.weights", "trained at 3 bits from random weights"),
    "best-is-not-last": (lambda: run(epochs={"val_top1": [*line(0.3, 0.8, 6), *line(0.8, 0.7, 5)]}), "best.pt", "80.0% at step 500, 70.0%"),
    "scales-hardly-move": (lambda: with_scale(50.0), "scales", "in 1000 steps Adam can move them by 0.1, less than 1% of the median 50"),
    "oscillating-untreated": (lambda: run(steps={"oscillating": line(0.0, 0.1)}), "oscillation", "9.6% of the low-bit weights oscillate"),
    "oscillation-rising": (lambda: treated({"oscillating": line(0.0, 0.1)}), "oscillation", "from 7.3% to 9.6%"),
    "freezing-one-oscillation": (
        lambda: treated(freezing={"threshold": 0.1, "final_threshold": 0.0005, "ema_momentum": 0.001}),
        "freezing.final_threshold",
        "0.5 x ema_momentum 0.001: one oscillation",
    ),
    "freezing-two-oscillations": (
        lambda: treated(freezing={"threshold": 0.0015, "ema_momentum": 0.001}),
        "freezing.final_threshold",
        "1.5 x ema_momentum 0.001: two oscillations",
    ),
    "window-too-long": (
        lambda: treated(freezing={"threshold": 0.1, "ema_momentum": 0.0005}),
        "freezing.ema_momentum",
        "0.0005 averages over 2,000 steps, the run has 1,000",
    ),
    "freezing-nothing": (
        lambda: treated({"oscillating": line(0.0, 0.1), "frozen": line(0.0, 0.0)}),
        "freezing",
        "0.00% of the weights are pinned at the end, 9.6% oscillate",
    ),
    "freezing-everything": (lambda: treated({"frozen": line(0.4, 0.99)}), "freezing", "51% of the weights are pinned after 200 of 1000"),
    "dampening-nothing": (
        lambda: treated({"dampening_weight": line(0.0, 0.0), "dampening_loss": line(0.0, 0.0)}),
        "dampening.final_weight",
        "weight 0: the term is 0 beside a loss of 0.27",
    ),
    "dampening-dominates": (
        lambda: treated({"loss": line(0.2, 2.0), "dampening_loss": line(0.0, 9.0)}),
        "dampening.final_weight",
        "to 1.87 while the weight went to 0.1; the term is 9",
    ),
    "annealing-nothing-free": (lambda: treated({"free": line(1.0, 0.0)}), "annealing.boundary_range", "0 of the weights are free"),
    "reestimation-hurt": (
        lambda: run(epochs={"val_top1_before_reestimation": [0.9] * 11}),
        "batch norms",
        "top-1 90.0% before re-estimation, 80.0% after it",
    ),
    "reestimation-helped": (
        lambda: run(epochs={"val_top1_before_reestimation": [0.7] * 11}),
        "batch norms",
        "top-1 70.0% before re-estimation, 80.0% after it: the running statistics were stale",
    ),
    "not-reestimated": (
        lambda: run(recipe={"training": {"epochs": EPOCHS, "reestimate_batches": 0}}),
        "batch norms",
        "training.reestimate_batches is 0",
    ),
}
