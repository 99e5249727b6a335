"""A run as plain data for the page's scripts, thinned so that a page of a long run opens at once."""

from collections.abc import Iterable, Mapping
from typing import Any

from stillbit.report.history import ActivationHistory, BatchnormCheck, Histogram, LayerHistory, RunHistory, Series, Trajectory
from stillbit.report.thinning import plain, spread, thin

_CURVE_POINTS = 400
_LAYER_POINTS = 160
_HISTOGRAMS = 60
_TRAJECTORY_POINTS = 600


class Axes:
    """Step lists that many series share, each kept once."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self._places: dict[tuple[int, ...], int] = {}

    def place(self, steps: list[int]) -> int:
        """Return the number of a list of steps, which is kept if it is new."""
        key = tuple(steps)
        if key not in self._places:
            self._places[key] = len(self.lists)
            self.lists.append(steps)
        return self._places[key]

    def series(self, series: Series, points: int) -> dict[str, Any] | None:
        """Return a thinned series, whose `x` is the number of a list of steps; None if it is empty."""
        if not series.steps:
            return None
        found = thin(series, points)
        return {**found, "x": self.place(found["x"])}


def curves_of(history: RunHistory) -> dict[str, Any]:
    """Return what the page draws of every run: figures of the whole network."""
    axes = Axes()
    steps, epochs = (_named(axes, figures) for figures in (history.steps, history.epochs))
    return {"steps": steps, "epochs": epochs, "axes": axes.lists, "stepsPerEpoch": history.steps_per_epoch}


def details_of(history: RunHistory) -> dict[str, Any]:
    """Return what the page draws of the chosen run: layers, activations, batch norms, sizes."""
    axes = Axes()
    return {
        "layers": [_layer(axes, layer) for layer in history.layers],
        "activations": [_activation(axes, activation) for activation in history.activations],
        "batchnorms": [_batchnorm(check) for check in history.batchnorms],
        "otherBytes": history.other_bytes,
        "floatBytes": history.float_bytes,
        "axes": axes.lists,
    }


def _named(axes: Axes, figures: Mapping[str, Series]) -> dict[str, Any]:
    found = {name: axes.series(series, _CURVE_POINTS) for name, series in figures.items()}
    return {name: series for name, series in found.items() if series is not None}


def _layer(axes: Axes, layer: LayerHistory) -> dict[str, Any]:
    facts = layer.facts
    return {
        "name": facts.name,
        "quantizer": facts.quantizer,
        "bits": facts.bits,
        "low": facts.low,
        "high": facts.high,
        "shift": facts.shift,
        "shape": list(facts.shape),
        "weights": facts.num_weights,
        "scales": facts.num_scales,
        "bytes": facts.num_bytes,
        "oscillating": axes.series(layer.oscillating, _LAYER_POINTS),
        "frozen": axes.series(layer.frozen, _LAYER_POINTS),
        "scale": _scale(axes, layer),
        "histograms": _histograms(layer.histograms),
        "trajectories": [_trajectory(trajectory) for trajectory in layer.trajectories],
    }


def _scale(axes: Axes, layer: LayerHistory) -> dict[str, Any] | None:
    """Join a layer's three series of scales; the band spans the smallest and the largest of each piece."""
    mean = axes.series(layer.scale, _LAYER_POINTS)
    if mean is None:
        return None
    low, high = thin(layer.smallest_scale, _LAYER_POINTS), thin(layer.largest_scale, _LAYER_POINTS)
    return {"x": mean["x"], "y": mean["y"], "low": low.get("low", low["y"]), "high": high.get("high", high["y"])}


def _histograms(histograms: tuple[Histogram, ...]) -> list[dict[str, Any]]:
    chosen = [histograms[place] for place in spread(len(histograms), _HISTOGRAMS)]
    return [
        {"step": one.step, "start": plain(one.start), "width": plain(one.width), "counts": list(one.counts)} for one in chosen if one.counts
    ]


def _trajectory(trajectory: Trajectory) -> dict[str, Any]:
    """Keep the last positions: a mean of several would hide the oscillation."""
    positions = trajectory.positions[-_TRAJECTORY_POINTS:]
    return {
        "index": trajectory.index,
        "frequency": plain(trajectory.frequency),
        "first": trajectory.first_step + len(trajectory.positions) - len(positions),
        "positions": _rounded(positions),
    }


def _activation(axes: Axes, activation: ActivationHistory) -> dict[str, Any]:
    return {"name": activation.name, "bits": activation.bits, "scale": axes.series(activation.scale, _LAYER_POINTS)}


def _batchnorm(check: BatchnormCheck) -> dict[str, Any]:
    return {"layer": check.layer, "before": plain(check.before), "after": plain(check.after)}


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [plain(value) for value in values]
