import json
import math

from stillbit.report.history import Series, Trajectory
from stillbit.report.payload import curves_of, details_of
from tests.report.histories import LAYERS, float_history, history, layer, series


def test_curves_share_lists_of_steps_and_leave_out_empty_series():
    run = history(steps={"loss": series(20, 10, float), "accuracy": series(20, 10, float), "frozen": Series((), ())})
    found = curves_of(run)
    assert set(found["steps"]) == {"loss", "accuracy"}
    assert found["steps"]["loss"]["x"] == found["steps"]["accuracy"]["x"]
    assert found["axes"][found["steps"]["loss"]["x"]] == [0, 10, 20]


def test_a_long_curve_is_thinned():
    found = curves_of(history(steps={"loss": series(5000, 1, float)}))["steps"]["loss"]
    assert len(found["y"]) == len(found["low"]) == 400


def test_details_hold_all_layers_with_facts_and_series():
    found = details_of(history())
    assert [each["name"] for each in found["layers"]] == list(LAYERS)
    first = found["layers"][0]
    assert (first["low"], first["high"], first["bits"], first["bytes"], first["shape"]) == (-4, 3, 3, 48, [16, 8, 1, 1])
    assert found["axes"][first["oscillating"]["x"]][-1] == 100
    assert found["batchnorms"][1] == {"layer": "bn1", "before": 0.2, "after": 0.001}
    assert found["otherBytes"] == 1000
    assert details_of(float_history())["layers"] == []


def test_scales_have_the_band_from_smallest_to_largest():
    one = layer("conv", 0, 100)
    run = history(layers=(with_fields(one, smallest_scale=series(100, 10, lambda _: 0.01), largest_scale=series(100, 10, lambda _: 0.9)),))
    scale = details_of(run)["layers"][0]["scale"]
    assert set(scale["low"]) == {0.01}
    assert set(scale["high"]) == {0.9}


def test_histograms_are_at_most_sixty_with_the_first_and_the_last():
    one = layer("conv", 0, 4000)
    found = details_of(history(layers=(one,)))["layers"][0]["histograms"]
    assert len(one.histograms) == 201
    assert len(found) == 60
    assert (found[0]["step"], found[-1]["step"]) == (0, 4000)


def test_a_long_trajectory_keeps_its_end_and_the_step_that_this_begins_with():
    long = Trajectory(3, 0.1, 11, tuple(float(step) for step in range(700)))
    found = details_of(history(layers=(with_fields(layer("conv", 0, 100), trajectories=(long,)),)))["layers"][0]["trajectories"][0]
    assert found["first"] == 111
    assert found["positions"][0] == 100.0
    assert len(found["positions"]) == 600


def test_what_is_not_finite_becomes_null():
    broken = Trajectory(3, math.nan, 11, (0.5, math.nan))
    run = history(
        steps={"loss": Series((1, 2), (math.inf, math.nan))},
        layers=(with_fields(layer("conv", 0, 100), trajectories=(broken,)),),
    )
    json.dumps([curves_of(run), details_of(run)], allow_nan=False)
    assert curves_of(run)["steps"]["loss"]["y"] == [None, None]


def with_fields(one, **fields):
    import dataclasses

    return dataclasses.replace(one, **fields)
