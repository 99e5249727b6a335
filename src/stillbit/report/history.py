"""What a report knows of a run: figures over time, of the whole network and by layer. All of it comes out of `record.jsonl`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Series:
    """A figure over training.

    Attributes:
        steps: Optimizer steps taken, ascending.
        values: One a step.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class LayerFacts:
    """What does not change while a quantized weight is trained.

    Attributes:
        name: Of the weight's site, as in `blocks.0.conv_pw`.
        quantizer: Its class, as in `LSQ`.
        bits: Width of a code.
        low: Smallest code.
        high: Largest code.
        shift: Offset of values from codes, in grid units: 0, or 0.5 for StatsQ.
        shape: Of the latent.
        num_weights: Elements of the latent.
        num_scales: Scales of the grid.
        num_bytes: Of the codes, packed at their width.
    """

    name: str
    quantizer: str
    bits: int
    low: int
    high: int
    shift: float
    shape: tuple[int, ...]
    num_weights: int
    num_scales: int
    num_bytes: int


@dataclass(frozen=True)
class Histogram:
    """How the latents of a layer lie on its grid.

    Attributes:
        step: Optimizer steps taken.
        start: Left edge of the first bin, as a position: a latent in grid units, counted so that grid points stand at their codes.
        width: Of a bin, in grid units.
        counts: Weights in each bin; the outermost bins hold what lies beyond them, too.
    """

    step: int
    start: float
    width: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Trajectory:
    """The positions of one weight over consecutive steps.

    Attributes:
        index: Of the weight in its flattened latent.
        frequency: Its oscillation frequency when it was chosen.
        first_step: Of the first position.
        positions: Latent in grid units, counted as in histograms, one per step; NaN where it was not finite.
    """

    index: int
    frequency: float
    first_step: int
    positions: tuple[float, ...]


@dataclass(frozen=True)
class LayerHistory:
    """One quantized weight over training.

    Attributes:
        facts: What does not change.
        oscillating: Share of its weights that oscillate.
        frozen: Share that is pinned; empty without freezing.
        scale: Mean of its scales.
        smallest_scale: Smallest of them.
        largest_scale: Largest of them.
        histograms: In the order of steps.
        trajectories: Of its most restless weights, in windows in the middle and at the end of the run; in each, the most restless first.
    """

    facts: LayerFacts
    oscillating: Series
    frozen: Series
    scale: Series
    smallest_scale: Series
    largest_scale: Series
    histograms: tuple[Histogram, ...]
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True)
class ActivationHistory:
    """One activation quantizer over training.

    Attributes:
        name: Of the quantizer's module, as in `blocks.0.conv_pw.input_quantizer`.
        bits: Width of a code.
        scale: Mean of its scales.
    """

    name: str
    bits: int
    scale: Series


@dataclass(frozen=True)
class BatchnormCheck:
    """How far a batch norm's statistics are from the population's at the end of a run.

    Attributes:
        layer: Its name.
        before: KL divergence of the running averages, in nats, mean over channels.
        after: That of the re-estimated statistics.
    """

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class RunHistory:
    """A run, as its record tells it.

    Attributes:
        name: Of its folder.
        folder: Where it lies.
        recipe: As plain data.
        versions: Of the libraries that decide its numbers.
        hardware: Device, cores, threads.
        images_per_step: Over all processes.
        steps_per_epoch: Optimizer steps.
        status: `complete`, `unfinished`, or the class of the error that ended it.
        reason: That error's message; empty without.
        seconds: Wall time between the record's events, without that before a resumption.
        steps: Figures of training by name (`loss`, `accuracy`, `learning_rate_0`, `oscillating`, ...), in steps.
        epochs: Figures of evaluation and training by name (`val_top1`, `val_loss`, `train_loss`, ...), in steps.
        layers: Every quantized weight, in the order of the network.
        activations: Every activation quantizer with a scale, in the order of the network.
        batchnorms: At the end of the run, in the order of the network; empty without batch norms or re-estimation.
        other_bytes: Size of all that is no code: scales, biases, norms.
        float_bytes: Size of the same network in float32.
    """

    name: str
    folder: Path
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    images_per_step: int
    steps_per_epoch: int
    status: str
    reason: str
    seconds: float
    steps: Mapping[str, Series]
    epochs: Mapping[str, Series]
    layers: tuple[LayerHistory, ...]
    activations: tuple[ActivationHistory, ...]
    batchnorms: tuple[BatchnormCheck, ...]
    other_bytes: int
    float_bytes: int
