import math

import pytest

from stillbit.report.history import Series
from stillbit.report.thinning import plain, spread, thin


def test_a_short_series_stays_as_it_is():
    assert thin(Series((1, 2), (0.5, 0.25)), 2) == {"x": [1, 2], "y": [0.5, 0.25]}


def test_a_long_series_becomes_means_with_extremes_at_the_last_step_of_each_piece():
    found = thin(Series((1, 2, 3, 4, 5), (1.0, 2.0, 6.0, 3.0, 3.0)), 2)
    assert found == {"x": [2, 5], "y": [1.5, 4.0], "low": [1.0, 3.0], "high": [2.0, 6.0]}


def test_what_is_not_finite_is_left_out_and_a_piece_of_nothing_else_is_none():
    found = thin(Series((1, 2, 3, 4), (math.nan, 2.0, math.inf, -math.inf)), 2)
    assert found == {"x": [2, 4], "y": [2.0, None], "low": [2.0, None], "high": [2.0, None]}


def test_an_empty_series_has_no_points():
    assert thin(Series((), ()), 5) == {"x": [], "y": []}


@pytest.mark.parametrize(("count", "chosen", "places"), [(3, 5, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (0, 2, [])])
def test_places_are_spread_evenly_with_both_ends(count, chosen, places):
    assert spread(count, chosen) == places


def test_numbers_keep_five_digits():
    assert plain(0.123456789) == 0.12346
    assert plain(math.nan) is None
