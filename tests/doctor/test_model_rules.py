"""Every rule on models: an ill model triggers it, the healthy one does not; nothing of a model changes."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from stillbit.doctor import examine, grids
from stillbit.doctor.rules import RULES, Rule
from stillbit.doctor.subjects import ModelSubject
from stillbit.errors import PrepareError
from tests.doctor import models

OF_MODELS = [rule for rule in RULES if rule.subject is ModelSubject]


def named(rule: Rule) -> str:
    return rule.name


@pytest.mark.parametrize("rule", OF_MODELS, ids=named)
def test_an_ill_model_triggers_the_rule(rule: Rule) -> None:
    make, told = models.ILL[rule.name]
    found = list(rule.find(make()))
    assert found
    assert any(told in one.what for one in found), found
    assert all(one.where and one.cure for one in found)


@pytest.mark.parametrize("rule", OF_MODELS, ids=named)
def test_a_healthy_model_does_not(rule: Rule) -> None:
    assert list(rule.find(models.trained())) == []


def test_freezing_writes_no_latent_that_its_grid_follows_from() -> None:
    model = models.prepared(quantizer="statsq")
    models.calibrate(model, [(models.images(),)])
    models.pinned_elsewhere(model)
    assert list(grids.pins_and_latents(models.subject(model))) == []


def test_there_is_no_case_without_a_rule() -> None:
    assert set(models.ILL) == {rule.name for rule in OF_MODELS}


def test_a_healthy_model_is_told_so_with_the_number_of_rules() -> None:
    ready = models.trained()
    found = examine(ready.model, ready.optimizers[0], ready.methods, ready.example)
    assert found.ok
    assert list(found) == []
    assert str(found) == f"Sequential: nothing wrong found; {len(OF_MODELS)} rules checked"


def test_what_is_not_given_is_not_checked_and_said() -> None:
    found = examine(models.model())
    assert found.ok
    reasons = {one.rule: one.why for one in found.unchecked}
    assert reasons["scale-not-in-optimizer"] == "no optimizer was given"
    assert reasons["never-called"] == reasons["stale-batchnorm"] == "no example was given"
    assert not set(reasons) & set(found.checked)
    assert "not checked: 9 rules: no optimizer was given" in str(found)


def test_statistics_take_a_batch() -> None:
    found = examine(models.model(), example=models.images(4))
    assert {one.rule: one.why for one in found.unchecked}["stale-batchnorm"] == "the example has 4 images, and it takes 32"
    assert "never-called" in found.checked


def test_nothing_of_the_model_changes() -> None:
    ready = models.trained()
    before, modes = deepcopy(ready.model.state_dict()), [module.training for module in ready.model.modules()]
    examine(ready.model, ready.optimizers[0], ready.methods, ready.example)
    after = ready.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [module.training for module in ready.model.modules()]
    assert not any(module._forward_pre_hooks for module in ready.model.modules())


def test_wrappers_and_lists_of_optimizers_are_understood() -> None:
    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    ready = models.trained()
    assert examine(ready.model, Wrapper(ready.optimizers[0]), ready.methods).ok
    parts = list(ready.optimizers[0].parts)
    assert [one.rule for one in examine(ready.model, parts)] == ["two-optimizers"]
    with pytest.raises(PrepareError, match=r"examine: str given, allowed: a torch.optim.Optimizer"):
        examine(ready.model, "adam")


def test_a_row_of_zeros_has_the_floor_by_right() -> None:
    model = models.prepared(per_channel=True)
    models.calibrate(model, [(models.images(),)])
    with torch.no_grad():
        models.weight_quantizer(model).scale[3] = 1e-8
        assert "scale-collapsed" in {one.rule for one in examine(model)}
        model.get_submodule(models.CONV).weight[3] = 0.0
        assert "scale-collapsed" not in {one.rule for one in examine(model)}


@pytest.mark.parametrize("rate", [pytest.param(1e-4, id="small"), pytest.param(1e-2, id="that of the weights")])
def test_sgd_on_scales_takes_a_small_rate(rate: float) -> None:
    model = models.model()
    groups = [{"params": models.weights(model)}, {"params": models.scales(model), "lr": rate}]
    found = examine(model, torch.optim.SGD(groups, lr=0.01))
    assert [one.rule for one in found] == ["scale-learning-rate-sgd"] * (3 if rate == 1e-2 else 0)


def test_a_model_in_full_precision_has_nothing_to_find() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert list(examine(model, torch.optim.SGD(model.parameters(), lr=0.1), example=models.images())) == []
