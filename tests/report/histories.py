"""Made-up runs, for pages of every kind."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from stillbit.report import RunHistory
from stillbit.report.history import ActivationHistory, BatchnormCheck, Histogram, LayerFacts, LayerHistory, Series, Trajectory

STEPS_PER_EPOCH = 10
LAYERS = ("conv_stem", "blocks.0.conv_dw", "blocks.0.conv_pw")


def series(steps: int, every: int, value: Any) -> Series:
    """Return a series of a function of the step."""
    places = tuple(range(0, steps + 1, every))
    return Series(places, tuple(float(value(place)) for place in places))


def layer(name: str, place: int, steps: int, *, bits: int = 3) -> LayerHistory:
    """Return a layer whose weights swing, the more the later the layer."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    count = (high - low + 2) * 10 + 1
    facts = LayerFacts(name, "LSQ", bits, low, high, 0.0, (16, 8, 1, 1), 128, 1, 48)
    counts = {step: tuple((place * 7 + step) % 11 for place in range(count)) for step in range(0, steps + 1, 20)}
    histograms = tuple(Histogram(step, low - 1.05, 0.1, each) for step, each in counts.items())
    swing = tuple(0.5 + 0.02 * (place + 1) * math.sin(step) for step in range(30))
    trajectories = tuple(Trajectory(index, 0.3 / (index + 1), first, swing) for first in (10, steps - 29) for index in (5, 17))
    scale = series(steps, 10, lambda step: 0.1 + 0.001 * step)
    return LayerHistory(
        facts,
        oscillating=series(steps, 10, lambda step: 0.01 * place * step / steps),
        frozen=series(steps, 10, lambda step: 0.3 * step / steps),
        scale=scale,
        smallest_scale=scale,
        largest_scale=scale,
        histograms=histograms,
        trajectories=trajectories,
    )


def recipe(**sections: Any) -> dict[str, Any]:
    """Return a recipe as plain data, with sections replaced."""
    plain = {
        "model": {"name": "small_mobilenet", "weights": "runs/float_seed0/last.pt"},
        "data": {"name": "digits", "root": "data", "workers": 0},
        "quantization": {"weight_bits": 3, "activation_bits": 3, "quantizer": "lsq"},
        "freezing": {"final_threshold": 0.006},
        "training": {"seed": 0, "log_every": 10},
    }
    return plain | sections


def history(name: str = "freeze", num_epochs: int = 10, **changes: Any) -> RunHistory:
    """Return a complete run with everything in its record, with fields replaced."""
    steps = num_epochs * STEPS_PER_EPOCH
    loss = series(steps, 1, lambda step: 2.0 / (1 + 0.1 * step))
    epoch_loss = series(steps, STEPS_PER_EPOCH, lambda step: 2.1 / (1 + 0.1 * step))
    top1 = series(steps, STEPS_PER_EPOCH, lambda step: 0.9 - 0.5 / (1 + step))
    share = series(steps, 5, lambda step: 0.02 * step / steps)
    found = RunHistory(
        name=name,
        folder=Path("runs") / name,
        recipe=recipe(),
        versions={"python": "3.11.7", "torch": "2.15.0", "stillbit": "0.1.0"},
        hardware={"device": "x86_64", "cpus": 2, "threads": 1},
        images_per_step=64,
        steps_per_epoch=STEPS_PER_EPOCH,
        status="complete",
        reason="",
        seconds=75.0,
        steps={"loss": loss, "accuracy": share, "learning_rate_0": loss, "oscillating": share, "frozen": share},
        epochs={"train_loss": epoch_loss, "val_loss": epoch_loss, "val_top1": top1},
        layers=tuple(layer(each, place, steps) for place, each in enumerate(LAYERS)),
        activations=tuple(ActivationHistory(f"{each}.input_quantizer", 3, series(steps, 10, lambda step: 1 + step)) for each in LAYERS),
        batchnorms=tuple(BatchnormCheck(f"bn{place}", 0.1 * (place + 1), 0.001 * place) for place in range(3)),
        other_bytes=1000,
        float_bytes=8000,
    )
    return dataclasses.replace(found, **changes)


def float_history(name: str = "float") -> RunHistory:
    """Return a run in full precision: nothing that belongs to a grid."""
    plain = recipe(quantization=None, freezing=None)
    kept = {key: one for key, one in history().steps.items() if key in ("loss", "accuracy")}
    return history(name, recipe=plain, steps=kept, layers=(), activations=(), batchnorms=(), other_bytes=8000)


def old_history(name: str = "old") -> RunHistory:
    """Return a run whose record was written before there were figures by layer."""
    return history(name, layers=(), activations=(), batchnorms=(), other_bytes=0, float_bytes=0)
