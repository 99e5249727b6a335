import math

import pytest

from stillbit.report.comparison import Spread, best, group_runs, last, seed_of, spread, title_of, total_bytes
from stillbit.report.history import Series
from tests.report.histories import float_history, history, old_history, recipe


def seeded(seed, **sections):
    start = {"name": "small_mobilenet", "weights": f"runs/float_seed{seed}/last.pt"}
    return history(f"run{seed}", recipe=recipe(model=start, training={"seed": seed}, **sections))


def test_runs_that_differ_in_the_seed_and_the_start_of_that_seed_are_one_group():
    groups = group_runs([seeded(0), seeded(1, freezing=None), seeded(2)])
    assert [group.members for group in groups] == [(0, 2), (1,)]
    assert groups[0].seeds == ("0", "2")
    assert [group.title for group in groups] == ["W3A3 LSQ, freezing", "W3A3 LSQ"]


@pytest.mark.parametrize("section", [{"data": {"name": "digits", "root": "elsewhere", "workers": 4}}])
def test_what_changes_no_number_does_not_part_runs(section):
    assert len(group_runs([history(), history(recipe=recipe(**section))])) == 1


def test_titles_say_network_and_data_where_groups_differ_in_them():
    groups = group_runs([history(), history(recipe=recipe(data={"name": "folder"}))])
    assert [group.title for group in groups] == [
        "small_mobilenet, digits, W3A3 LSQ, freezing",
        "small_mobilenet, folder, W3A3 LSQ, freezing",
    ]


def test_groups_of_one_title_say_in_what_they_differ():
    groups = group_runs([seeded(0), seeded(0, freezing={"final_threshold": 0.01})])
    assert [group.title.rpartition(" (")[2] for group in groups] == ["freezing.final_threshold=0.006)", "freezing.final_threshold=0.01)"]


def test_the_title_says_network_data_bits_and_methods():
    assert title_of(recipe()) == "small_mobilenet, digits, W3A3 LSQ, freezing"
    assert title_of(recipe(quantization=None, freezing=None)) == "small_mobilenet, digits, float"
    assert title_of({"quantization": {"weight_bits": 2, "activation_bits": 4, "quantizer": "statsq"}}) == "W2A4 StatsQ"
    assert title_of({}) == "float"


def test_the_spread_is_the_sample_standard_deviation_of_the_runs_that_have_the_figure():
    assert spread([0.9, None, 0.8]) == Spread(pytest.approx(0.85), pytest.approx(math.sqrt(0.005)), 0.8, 0.9, 2)
    assert spread([0.9]) == Spread(0.9, None, 0.9, 0.9, 1)
    assert spread([None]) is None


def test_figures_are_of_the_epochs_first_and_finite():
    run = history(steps={"oscillating": Series((1, 2), (0.1, 0.2))}, epochs={"val_top1": Series((1, 2, 3), (0.5, 0.75, math.nan))})
    assert last(run, "val_top1") == best(run, "val_top1") == 0.75
    assert last(run, "oscillating") == 0.2
    assert last(run, "val_loss") is None
    assert best(run, "val_loss") is None


def test_sizes_and_seeds_are_of_the_record_or_absent():
    assert total_bytes(history()) == 3 * 48 + 1000
    assert total_bytes(float_history()) == 8000
    assert total_bytes(old_history()) is None
    assert seed_of(history()) == "0"
    assert seed_of(history(recipe={})) == "-"
