import math

import pytest
import torch

from stillbit.errors import RecipeError
from stillbit.numerics.rounding import EWGS, ROUNDINGS, STE, Rounding, StackedSigmoid, Stochastic


@pytest.mark.parametrize("rounding", [STE(), Stochastic()], ids=repr)
def test_straight_through(rounding: Rounding) -> None:
    assert rounding.factor(torch.tensor([0.3]), torch.tensor([-2.0])) == 1.0


def test_ewgs_steps_farther_away_from_the_grid_point() -> None:
    t = torch.tensor([0.25, 0.25, -0.25, 0.25])
    h = torch.tensor([3.0, -3.0, 3.0, 0.0])
    # descent moves against h: h > 0 moves t = .25 back towards 0, and the factor 1 + .2 * .25 makes that step longer
    assert EWGS(0.2).factor(t, h).tolist() == pytest.approx([1.05, 0.95, 0.95, 1.0])


def test_ewgs_of_strength_zero_is_straight_through() -> None:
    assert torch.equal(EWGS(0.0).factor(torch.randn(9), torch.randn(9)), torch.ones(9))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 8.0])
def test_stacked_sigmoid_is_the_slope_of_a_staircase(sharpness: float) -> None:
    def stair(t: float) -> float:
        """A sigmoid round each boundary, scaled to rise by exactly one between two grid points."""
        foot = math.floor(t)
        rise = 1 / (1 + math.exp(-sharpness / 2)) - 1 / (1 + math.exp(sharpness / 2))
        return foot + (1 / (1 + math.exp(-sharpness * (t - foot - 0.5))) - 0.5) / rise + 0.5

    for t in (-1.9, -0.7, 0.1, 0.45, 0.55, 2.3):
        slope = (stair(t + 1e-6) - stair(t - 1e-6)) / 2e-6
        given = StackedSigmoid(sharpness).factor(torch.tensor([t], dtype=torch.float64), torch.ones(1))
        assert given.item() == pytest.approx(slope, rel=1e-7)  # central differences of step 1e-6 in float64


def test_stacked_sigmoid_peaks_where_the_rounding_decides() -> None:
    t = torch.linspace(0, 0.99, 100)
    factor = StackedSigmoid(4.0).factor(t, torch.ones(100))
    assert t[factor.argmax()] == pytest.approx(0.5, abs=0.01)  # the spacing of t
    assert (factor > 0).all()


@pytest.mark.parametrize("sharpness", [0.0, -1.0, math.nan])
def test_sharpness_must_be_positive(sharpness: float) -> None:
    with pytest.raises(RecipeError, match=r"sharpness is .*; it must be positive"):
        StackedSigmoid(sharpness)


@pytest.mark.parametrize("scaling", [-0.1, math.nan])
def test_ewgs_scaling_must_not_be_negative(scaling: float) -> None:
    with pytest.raises(RecipeError, match=r"scaling is .*; it must be 0 or more"):
        EWGS(scaling)


def test_roundings_are_values() -> None:
    assert EWGS(0.2) == EWGS()
    assert {ROUNDINGS[name]() for name in ROUNDINGS} == {STE(), EWGS(), StackedSigmoid(), Stochastic()}
