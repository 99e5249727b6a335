"""Every rule on runs: an ill record triggers it, the healthy ones do not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from stillbit.doctor.examine import check
from stillbit.doctor.rules import RULES, Rule
from stillbit.doctor.subjects import RunSubject
from stillbit.oscillation.optimizer_rules import Unknown
from tests.doctor import runs

OF_RUNS = [rule for rule in RULES if rule.subject is RunSubject]


def named(rule: Rule) -> str:
    return rule.name


@pytest.mark.parametrize("rule", OF_RUNS, ids=named)
def test_an_ill_run_triggers_the_rule(rule: Rule) -> None:
    make, where, told = runs.ILL[rule.name]
    (found,) = rule.find(make())
    assert found.where == where
    assert told in found.what
    assert found.cure


@pytest.mark.parametrize("healthy", runs.HEALTHY.values(), ids=runs.HEALTHY)
@pytest.mark.parametrize("rule", OF_RUNS, ids=named)
def test_a_healthy_run_does_not(rule: Rule, healthy: Callable[[], RunSubject]) -> None:
    assert list(rule.find(healthy())) == []


def test_there_is_no_case_without_a_rule() -> None:
    assert set(runs.ILL) == {rule.name for rule in OF_RUNS}


def test_a_run_that_is_still_written_is_not_called_killed() -> None:
    assert check("run", [runs.run(status="unfinished", idle_seconds=5.0)]).ok


@pytest.mark.parametrize("status", ["Interrupted", "KeyboardInterrupt"])
def test_a_stopped_run_says_how_to_go_on(status: str) -> None:
    (found,) = check("run", [runs.run(status=status, reason="stopped by SIGTERM")])
    assert (found.rule, found.where, found.what) == ("unfinished", "step 1000", "stopped before its end")
    assert found.cure == "go on by: stillbit train runs/run/recipe.yaml --folder runs/run --resume"


def test_without_a_checkpoint_it_says_to_start_again() -> None:
    (found,) = check("run", [runs.run(status="Interrupted", has_checkpoint=False)])
    assert found.cure == "start it again: there is no checkpoint"


def test_a_collapse_that_ended_the_run_is_told_once() -> None:
    reason = "validation accuracy fell from 80.0% to 10.0%, chance is 10.0%, and did not recover in 2 evaluations"
    found = check(
        "run", [runs.run(status="DivergedError", reason=reason, epochs={"val_top1": runs.fallen(), "val_top1_before_reestimation": []})]
    )
    assert [one.rule for one in found] == ["diverged"]
    assert found[0].where == "step 1000"


def test_a_difference_within_two_standard_errors_is_none() -> None:
    epochs = {"val_count": [100.0] * 11, "val_top1_before_reestimation": [0.86] * 11}
    assert check("run", [runs.run(epochs=epochs)]).ok


def test_everything_pinned_late_is_told_too() -> None:
    found = check("run", [runs.treated({"frozen": [0.0] * 40 + runs.line(0.1, 0.95, 10)})])
    assert [(one.rule, one.what) for one in found] == [("freezing-everything", "95% of the weights are pinned at the end")]


@pytest.mark.parametrize(
    ("subject", "rule", "why"),
    [
        pytest.param(runs.run(num_classes=None), "at-chance", "the number of classes is not known", id="classes"),
        pytest.param(runs.run(steps={"loss": [1.0, 0.5]}), "loss-not-falling", "has 2 logged steps", id="short"),
        pytest.param(runs.run(steps={"oscillating": []}), "oscillating-untreated", "the record has no oscillating over time", id="figure"),
        pytest.param(
            runs.run(has_batchnorm=None, recipe={"training": {"epochs": 1}}), "not-reestimated", "whether there are batch norms", id="norms"
        ),
        pytest.param(
            replace(runs.run(), history=replace(runs.run().history, layers=())), "scales-hardly-move", "has no scales", id="old_record"
        ),
    ],
)
def test_what_the_record_does_not_tell_is_not_checked(subject: RunSubject, rule: str, why: str) -> None:
    (find,) = (one.find for one in OF_RUNS if one.name == rule)
    with pytest.raises(Unknown, match=why):
        list(find(subject))


def test_a_run_in_full_precision_has_no_oscillation_to_treat() -> None:
    assert check("run", [runs.run(recipe={"quantization": None}, steps={"oscillating": []})]).ok
