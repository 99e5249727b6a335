"""One weight: what each method does to it, and that a run is a function of its seed."""

import numpy as np
import pytest
import torch

from stillbit.quantizers import StatsQ
from stillbit.schedules import Constant
from stillbit.toy.experiments import DISTANCE, LAST, LEARNING_RATE, one_weight
from stillbit.toy.regression import Regression, Trajectory, from_step, solve
from stillbit.toy.setups import TREATED_FROM, learned_scale, whole_numbers

ONE_CYCLE = 2 / LAST  # a window that cuts a cycle counts up to two switches more or fewer


@pytest.fixture(scope="module")
def plain() -> Trajectory:
    return one_weight("straight-through")


def test_it_oscillates_under_the_straight_through_estimator(plain: Trajectory) -> None:
    assert plain.frequency(LAST)[0] == pytest.approx(2 * DISTANCE, abs=ONE_CYCLE)
    assert np.ptp(plain.codes[-LAST:]) == 1


def test_it_passes_its_optimum_and_stays_round_the_boundary(plain: Trajectory) -> None:
    assert plain.positions[0, 0] == 0.0
    assert np.all(np.abs(plain.positions[-LAST:] - 0.5) <= LEARNING_RATE)


def test_the_mean_of_its_values_is_the_optimum(plain: Trajectory) -> None:
    assert plain.values[-LAST:].mean() == pytest.approx(DISTANCE, abs=1 / LAST)  # of a cut cycle, one step


def test_loss_is_that_of_the_values(plain: Trajectory) -> None:
    assert plain.losses[0] == pytest.approx(DISTANCE**2 / 2)
    assert plain.losses.max() == pytest.approx((1 - DISTANCE) ** 2 / 2)


def test_what_is_above_the_boundary_before_a_step_has_the_upper_value_in_it(plain: Trajectory) -> None:
    assert np.array_equal(plain.values, plain.positions > 0.5)


@pytest.mark.parametrize(("name", "factor"), [("EWGS", 0.9), ("stacked sigmoid", 1.47)])
def test_estimators_change_the_height_alone(plain: Trajectory, name: str, factor: float) -> None:
    found = one_weight(name)
    assert found.frequency(LAST)[0] == pytest.approx(plain.frequency(LAST)[0], abs=ONE_CYCLE)
    height = found.amplitude(LAST)[0] / plain.amplitude(LAST)[0]
    assert height == pytest.approx(factor, rel=0.05)  # the factor at the boundary; it varies over a saw-tooth of 0.1


def test_stochastic_rounding_holds_the_latent_and_flips_the_code() -> None:
    found = one_weight("stochastic rounding")
    assert found.flips()[-1, 0] - found.flips()[-1 - LAST, 0] > 20
    assert found.frequency(LAST)[0] < 0.1
    assert found.positions[-LAST:].mean() == pytest.approx(DISTANCE, abs=0.1)  # it wanders by about a step of 0.074


def test_dampening_ends_it_below_the_boundary() -> None:
    found = one_weight("dampening")
    assert found.oscillations[TREATED_FROM - 1, 0] > 10
    assert found.frequency(LAST)[0] == 0.0
    assert found.positions[-1, 0] == pytest.approx(DISTANCE / (2 * 0.4), abs=1e-5)  # where its pull balances the gradient


def test_freezing_ends_it_at_the_nearer_code() -> None:
    found = one_weight("freezing")
    assert found.oscillations[TREATED_FROM - 1, 0] > 10
    assert np.all(found.values[TREATED_FROM:] == 0.0)
    assert np.all(found.positions[TREATED_FROM:] == 0.0)


def test_annealing_holds_it_where_it_is() -> None:
    found = one_weight("annealing")
    assert found.oscillations[TREATED_FROM - 1, 0] > 10
    assert np.ptp(found.positions[TREATED_FROM:]) == 0.0


def test_a_scale_of_its_own_takes_it_to_its_optimum() -> None:
    found = solve(Regression((DISTANCE,), (0.0,), LEARNING_RATE, 300), learned_scale())
    assert found.values[-1, 0] == pytest.approx(DISTANCE, abs=1e-4)
    assert found.codes[-1, 0] == 1


def test_codes_of_a_shifted_grid_are_whole() -> None:
    values = (0.3, -1.2, 0.6)
    found = solve(Regression(values, values, 0.01, 3), StatsQ(2))
    assert np.array_equal(found.codes[0], [0, -2, 0])
    assert np.allclose(found.values, (found.codes + 0.5) * found.scales[:, None], atol=1e-6)  # values are float32


def test_weights_on_a_fixed_grid_do_not_feel_each_other() -> None:
    both = solve(Regression((0.26, 0.41), (0.5, 0.0), 0.1, 50), whole_numbers())
    alone = solve(Regression((0.41,), (0.0,), 0.1, 50), whole_numbers())
    assert np.array_equal(both.positions[:, 1:], alone.positions)
    assert np.array_equal(both.oscillations[:, 1:], alone.oscillations)


@pytest.mark.parametrize("sampled", [False, True], ids=["rounding", "inputs"])
def test_a_seed_gives_the_same_bits_and_leaves_torchs_generator_alone(sampled: bool) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (_random(sampled, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.positions, again.positions)
    assert not np.array_equal(first.positions, other.positions)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_schedule_can_begin_late() -> None:
    schedule = from_step(3, Constant(0.5))
    assert [schedule(step) for step in (2, 3, 4)] == [0.0, 0.5, 0.5]


def _random(sampled: bool, seed: int) -> Trajectory:
    if not sampled:
        return one_weight("stochastic rounding", seed)
    return solve(Regression((DISTANCE,), (0.5,), 0.1, 20, sampled=True, seed=seed), whole_numbers())
