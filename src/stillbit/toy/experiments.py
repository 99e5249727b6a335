"""What the toy measures: one weight under every method, then how frequency and height depend on what, then a row of weights."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stillbit.oscillation import Dampening
from stillbit.prepare import calibrate
from stillbit.quantizers import Quantizer
from stillbit.toy import laws
from stillbit.toy.regression import Regression, Trajectory, Treatment, model_of, solve
from stillbit.toy.setups import METHODS, ROW_STEPS, ROWS, whole_numbers

DISTANCE = 0.26  # of the optimum from the grid point 0
BOUNDARY = 0.5
LEARNING_RATE = 0.1  # large, so that the saw-tooth can be seen
STEPS, LAST = 300, 100
SEVERAL = (0.11, 0.26, 0.41)
RATES = (0.001, 0.004, 0.016, 0.064, 0.256)
WEIGHTS = tuple(0.025 * number for number in range(17))  # of the dampening term: 0 to 0.4
ROW, ROW_RATE = 64, 0.01


@dataclass(frozen=True)
class Curve:
    """A measured figure over another one.

    Attributes:
        x: What was set.
        y: What was measured.
        expected: What `laws` gives; empty where it has nothing to say.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    expected: tuple[float, ...] = ()


@dataclass(frozen=True)
class RowEnd:
    """How a row of weights that share a grid ends; means over its last steps.

    Attributes:
        oscillations: Per 100 steps and weight.
        loss: Expected loss.
        smallest_loss: The smallest of the run.
        scale: The grid's step at the end.
        scale_spread: From its smallest to its largest over these steps.
    """

    oscillations: float
    loss: float
    smallest_loss: float
    scale: float
    scale_spread: float


@dataclass(frozen=True)
class Findings:
    """All that the toy measures; frequencies are oscillations a step, two a cycle.

    Attributes:
        methods: One weight, by name of the method.
        frequency_by_distance: By what was varied next to the distance.
        frequency_by_rate: Over the learning rate, by distance.
        amplitude_by_rate: Height of the saw-tooth over the learning rate, by rounding estimator.
        frequency_by_dampening: Over the weight of the dampening term, by distance.
        rows: A row of weights, by quantizer and method.
    """

    methods: dict[str, Trajectory]
    frequency_by_distance: dict[str, Curve]
    frequency_by_rate: dict[str, Curve]
    amplitude_by_rate: dict[str, Curve]
    frequency_by_dampening: dict[str, Curve]
    rows: dict[str, RowEnd]


def measure(seed: int = 0) -> Findings:
    """Measure everything, in some 14,000 optimizer steps of tiny models."""
    return Findings(
        methods={name: one_weight(name, seed) for name in METHODS},
        frequency_by_distance=by_distance(seed),
        frequency_by_rate=by_rate(),
        amplitude_by_rate=amplitudes(),
        frequency_by_dampening=by_dampening(),
        rows={name: row(name, seed) for name in ROWS},
    )


def one_weight(name: str, seed: int = 0) -> Trajectory:
    """Train one weight under an entry of `METHODS`, from the grid point below its optimum."""
    quantizer, treat = METHODS[name]
    return solve(Regression((DISTANCE,), (0.0,), LEARNING_RATE, STEPS, seed=seed), quantizer(), treat)


def by_distance(seed: int = 0, rates: Sequence[float] = (0.001, 0.01, 0.1)) -> dict[str, Curve]:
    """Measure frequency against distance, by learning rate, and with sampled inputs."""
    distances = tuple(round(0.02 * number - 0.01, 2) for number in range(1, 26))
    expected = tuple(laws.oscillation_frequency(distance) for distance in distances)
    curves = {
        f"learning rate {rate:g}": Curve(distances, _floats(_from_boundary(distances, rate, 410).frequency(400)), expected)
        for rate in rates
    }
    sampled = _from_boundary(distances, 0.01, 1010, sampled=True, seed=seed)
    return curves | {"one random input a step": Curve(distances, _floats(sampled.frequency(1000)))}


def by_rate() -> dict[str, Curve]:
    """Measure frequency against learning rate, by distance."""
    found = [_from_boundary(SEVERAL, rate, 210).frequency(200) for rate in RATES]
    return _each_distance(RATES, found, lambda distance, _: laws.oscillation_frequency(distance))


def amplitudes() -> dict[str, Curve]:
    """Measure the height of the saw-tooth against the learning rate, by rounding estimator."""
    curves = {}
    for name in ("straight-through", "EWGS", "stacked sigmoid"):
        quantizer = METHODS[name][0]
        found = [_from_boundary((DISTANCE,), rate, 110, quantizer=quantizer()).amplitude(100) for rate in RATES]
        factor = float(quantizer().rounding.factor(torch.tensor(BOUNDARY - 1e-6), torch.tensor(-1.0)))
        expected = tuple(laws.amplitude(rate, factor) for rate in RATES)
        curves[name] = Curve(RATES, _floats(each[0] for each in found), expected)
    return curves


def by_dampening() -> dict[str, Curve]:
    """Measure frequency against the weight of the dampening term, by distance."""
    found = [_from_boundary(SEVERAL, 0.002, 210, treat=_dampening(weight)).frequency(200) for weight in WEIGHTS]
    return _each_distance(WEIGHTS, found, laws.oscillation_frequency)


def row(name: str, seed: int = 0) -> RowEnd:
    """Train a row of weights with normal optima, which they start at, under an entry of `ROWS`."""
    make, treat = ROWS[name]
    optima = tuple(torch.randn(ROW, generator=torch.Generator().manual_seed(seed)).tolist())
    task = Regression(optima, optima, ROW_RATE, ROW_STEPS, seed=seed)
    quantizer = make()
    if quantizer.needs_range:
        calibrate(model_of(task, quantizer), [(torch.eye(ROW), torch.zeros(ROW))])
    found = solve(task, quantizer, treat)
    return RowEnd(
        oscillations=float(100 * found.frequency(LAST).mean()),
        loss=float(found.losses[-LAST:].mean()),
        smallest_loss=float(found.losses.min()),
        scale=float(found.scales[-1]),
        scale_spread=float(np.ptp(found.scales[-LAST:])),
    )


def _from_boundary(
    distances: tuple[float, ...],
    learning_rate: float,
    steps: int,
    *,
    quantizer: Quantizer | None = None,
    treat: Treatment | None = None,
    sampled: bool = False,
    seed: int = 0,
) -> Trajectory:
    """Train a weight for each distance, starting where it would arrive in the end."""
    task = Regression(distances, (BOUNDARY,) * len(distances), learning_rate, steps, sampled=sampled, seed=seed)
    return solve(task, whole_numbers() if quantizer is None else quantizer, treat)


def _dampening(weight: float) -> Treatment:
    return lambda model: Dampening(model, weight=weight, aggregation="sum")


def _each_distance(x: tuple[float, ...], found: Sequence[NDArray[np.float64]], law: Callable[[float, float], float]) -> dict[str, Curve]:
    """Make a curve of each column of `found`, which has a row for each `x`."""
    return {
        f"distance {distance:g}": Curve(x, _floats(each[column] for each in found), tuple(law(distance, one) for one in x))
        for column, distance in enumerate(SEVERAL)
    }


def _floats(numbers: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(number) for number in numbers)
