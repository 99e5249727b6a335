import dataclasses
import math

import pytest

from stillbit.schedules import Constant, Cosine, Linear, MultiStep, as_schedule


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        pytest.param(Constant(0.3), 1, 0.3, id="constant-first"),
        pytest.param(Constant(0.3), 10**9, 0.3, id="constant-far"),
        pytest.param(Linear(1.0, 3.0, steps=8), 0, 1.0, id="linear-start"),
        pytest.param(Linear(1.0, 3.0, steps=8), 2, 1.5, id="linear-quarter"),
        pytest.param(Linear(1.0, 3.0, steps=8), 8, 3.0, id="linear-end"),
        pytest.param(Linear(1.0, 3.0, steps=8), 9, 3.0, id="linear-after"),
        pytest.param(Linear(1.0, 3.0, steps=8, begin=0.5), 3.9, 1.0, id="linear-before_defaults_to_start"),
        pytest.param(Linear(1.0, 3.0, steps=8, begin=0.5, before=7.0), 3.9, 7.0, id="linear-before"),
        pytest.param(Linear(1.0, 3.0, steps=8, begin=0.5, before=7.0), 4, 1.0, id="linear-begins"),
        pytest.param(Linear(1.0, 3.0, steps=8, begin=0.5, before=7.0), 6, 2.0, id="linear-begun_middle"),
        pytest.param(Linear(1.0, 3.0, steps=8, begin=1.0, before=7.0), 7.5, 7.0, id="linear-begin_1_before"),
        pytest.param(Linear(1.0, 3.0, steps=8, begin=1.0, before=7.0), 8, 3.0, id="linear-begin_1_end"),
        pytest.param(Cosine(20.0, 2.0, steps=50), 0, 20.0, id="cosine-start"),
        pytest.param(Cosine(20.0, 2.0, steps=50), 25, 11.0, id="cosine-middle"),
        pytest.param(Cosine(20.0, 2.0, steps=50), 50, 2.0, id="cosine-end"),
        pytest.param(Cosine(20.0, 2.0, steps=50), 51, 2.0, id="cosine-after"),
        pytest.param(Cosine(0.1, 0.01, steps=12, begin=0.25, before=0.0), 2, 0.0, id="cosine-before"),
        pytest.param(Cosine(0.1, 0.01, steps=12, begin=0.25, before=0.0), 3, 0.1, id="cosine-begins"),
        pytest.param(Cosine(0.1, 0.01, steps=12, begin=0.25), 2, 0.1, id="cosine-before_defaults_to_start"),
        pytest.param(Cosine(1.0, 0.0, steps=6, begin=0.25), 3.75, 0.5, id="cosine-begin_is_not_rounded"),
        pytest.param(Cosine(0.1, 0.01, steps=8, begin=1.0, before=0.0), 7, 0.0, id="cosine-begin_1_before"),
        pytest.param(Cosine(0.1, 0.01, steps=8, begin=1.0, before=0.0), 8, 0.01, id="cosine-begin_1_end"),
        pytest.param(Cosine(0.1, 0.01, steps=8, begin=1.0, published=True), 9, 0.01, id="cosine-published_begin_1"),
        pytest.param(MultiStep(1.0, (10, 20), factor=0.5), 9.9, 1.0, id="multistep-before_first"),
        pytest.param(MultiStep(1.0, (10, 20), factor=0.5), 10, 0.5, id="multistep-first"),
        pytest.param(MultiStep(1.0, (10, 20), factor=0.5), 20, 0.25, id="multistep-last"),
        pytest.param(MultiStep(1.0, (10, 20), factor=0.5), 10**9, 0.25, id="multistep-far"),
        pytest.param(MultiStep(1.0, ()), 5, 1.0, id="multistep-no_milestones"),
    ],
)
def test_value_at_step(schedule, step, expected):
    # 1e-15: the cosine's own rounding; all other cases are exact
    assert schedule(step) == pytest.approx(expected, rel=1e-15, abs=1e-15)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # numbers of the published code (golden case 6: start 0, end 0.1, 12 steps, begin 0.25)
        pytest.param(4, 0.0030153689607045842, id="on_the_way"),
        pytest.param(12, 0.1, id="end"),
        pytest.param(13, 0.09698463103929542, id="turns_back"),
    ],
)
def test_published_cosine_turns_back_after_its_end(step, expected):
    assert Cosine(0.0, 0.1, steps=12, begin=0.25, published=True)(step) == pytest.approx(expected, rel=1e-12)


def test_every_step_lies_between_both_ends_and_never_rises():
    values = [Cosine(0.1, 0.01, steps=12, begin=0.25)(step) for step in range(1, 15)]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[-1]) == (0.1, 0.01)


def test_schedules_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Constant(1.0).value = 2.0


def test_a_number_becomes_a_constant_and_a_schedule_stays():
    cosine = Cosine(1.0, 0.0, steps=3)
    assert as_schedule(2) == Constant(2.0)
    assert as_schedule(cosine) is cosine


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: Constant(math.nan), "value is nan; allowed: a finite number", id="nan"),
        pytest.param(lambda: as_schedule(math.inf), "value is inf; allowed: a finite number", id="infinite"),
        pytest.param(lambda: Linear(0.0, 1.0, steps=0), "steps is 0; allowed: more than 0", id="no_steps"),
        pytest.param(
            lambda: Cosine(0.0, 1.0, steps=5, begin=1.5),
            "begin is 1.5; allowed: 0 to 1, a fraction of steps",
            id="begin_beyond_the_end",
        ),
        pytest.param(
            lambda: Linear(0.0, 1.0, steps=5, before=math.nan),
            "before is nan; allowed: a finite number",
            id="before_nan",
        ),
        pytest.param(lambda: MultiStep(1.0, (20, 10)), "milestones is [20, 10]; allowed: ascending steps", id="descending"),
    ],
)
def test_bad_values_are_refused(build, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        build()
    assert str(caught.value) == message
