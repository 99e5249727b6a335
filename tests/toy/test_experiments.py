"""Measured figures stand next to the calculated ones."""

import pytest

from stillbit.toy import experiments
from stillbit.toy.experiments import RATES, Curve, amplitudes, by_dampening, by_distance, by_rate, row
from stillbit.toy.setups import ROW_STEPS


def cut(steps: int) -> float:
    """The error of a frequency over so many steps: a window that cuts a cycle has up to two switches more or fewer."""
    return 2 / steps


@pytest.fixture(scope="module")
def distances() -> dict[str, Curve]:
    return by_distance(rates=(0.01, 0.1))


@pytest.mark.parametrize("name", ["learning rate 0.01", "learning rate 0.1"])
def test_frequency_is_twice_the_distance(distances: dict[str, Curve], name: str) -> None:
    curve = distances[name]
    assert curve.expected == pytest.approx(tuple(2 * distance for distance in curve.x))
    assert curve.y == pytest.approx(curve.expected, abs=cut(400))


def test_with_random_inputs_it_is_lower_and_grows_all_the_same(distances: dict[str, Curve]) -> None:
    sampled, exact = distances["one random input a step"].y, distances["learning rate 0.01"].y
    assert all(one < other + cut(1000) for one, other in zip(sampled, exact, strict=True))
    assert sampled[-1] < 0.5 * exact[-1]
    assert sampled[-1] > 3 * sampled[2]


def test_frequency_is_the_same_at_every_learning_rate() -> None:
    for curve in by_rate().values():
        assert curve.x == RATES
        assert curve.y == pytest.approx(curve.expected, abs=cut(200))


def test_height_is_proportional_to_the_learning_rate() -> None:
    for curve in amplitudes().values():
        assert curve.expected[0] / curve.x[0] == pytest.approx(curve.expected[-1] / curve.x[-1])
        # The 50 points of a cycle leave out 2 % of the height; a factor that varies over a saw-tooth of 0.26, some more.
        assert curve.y == pytest.approx(curve.expected, rel=0.03)


def test_dampening_slows_oscillation_and_ends_it_from_the_distance_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "WEIGHTS", (0.0, 0.1, 0.2, 0.3))
    for name, curve in by_dampening().items():
        assert curve.y == pytest.approx(curve.expected, abs=cut(200)), name
        assert [frequency > 0 for frequency in curve.y] == [weight < float(name.split()[1]) for weight in curve.x]


def test_a_row_on_a_fixed_grid_oscillates_and_keeps_its_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    end = row("fixed grid")
    assert end.oscillations > 30
    assert end.scale_spread == 0.0
    assert end.loss > end.smallest_loss


@pytest.mark.parametrize("name", ["LSQ", "StatsQ"])
def test_the_scale_of_a_row_moves_with_its_weights(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shorten(monkeypatch)
    end = row(name)
    assert end.oscillations > 20
    assert end.scale_spread > 0.0


def test_annealing_quiets_a_row() -> None:
    assert row("StatsQ, annealing").oscillations < 0.2 * row("StatsQ").oscillations


def test_a_row_is_a_function_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    assert row("LSQ", seed=3) == row("LSQ", seed=3)
    assert row("LSQ", seed=3) != row("LSQ", seed=4)


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ROW_STEPS > 150
    monkeypatch.setattr(experiments, "ROW_STEPS", 150)
