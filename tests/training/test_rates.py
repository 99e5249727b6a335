import itertools

import pytest
import torch
from torch import nn

from stillbit.errors import RecipeError
from stillbit.training.rates import LearningRates, ScheduleConfig

EPOCHS, STEPS_PER_EPOCH = 4, 3


def rates(*schedules: ScheduleConfig, lr: float = 1.0) -> LearningRates:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)
    return LearningRates(optimizer, schedules, EPOCHS, STEPS_PER_EPOCH)


def all_rates(schedule: ScheduleConfig) -> list[float]:
    return [rates(schedule).at(step)[0] for step in range(1, EPOCHS * STEPS_PER_EPOCH + 1)]


def test_cosine_per_epoch_equals_torchs_scheduler() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS, eta_min=0.1)
    expected = []
    for _ in range(EPOCHS):
        expected += [optimizer.param_groups[0]["lr"]] * STEPS_PER_EPOCH
        optimizer.step()
        scheduler.step()
    # torch computes the cosine by a recurrence; it differs from the closed form in the last bits
    assert all_rates(ScheduleConfig("cosine", end=0.1)) == pytest.approx(expected, rel=1e-12)


def test_multistep_per_epoch_equals_torchs_scheduler() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
    expected = []
    for _ in range(EPOCHS):
        expected += [optimizer.param_groups[0]["lr"]] * STEPS_PER_EPOCH
        optimizer.step()
        scheduler.step()
    assert all_rates(ScheduleConfig("multistep", milestones=(1, 3))) == pytest.approx(expected, rel=1e-12)  # powers of 0.1


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_per_step_ends_at_the_last_step(kind: str) -> None:
    values = all_rates(ScheduleConfig(kind, end=0.25, per="step"))
    assert values[-1] == 0.25
    assert all(later < earlier for earlier, later in itertools.pairwise(values))


def test_constant_is_the_default() -> None:
    assert rates(lr=0.3).at(12) == [0.3]


def test_set_writes_each_group() -> None:
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [parameters[0]], "lr": 1.0}, {"params": [parameters[1]], "lr": 2.0}])
    schedule = LearningRates(optimizer, [ScheduleConfig("linear"), ScheduleConfig()], EPOCHS, STEPS_PER_EPOCH)
    schedule.set(7)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 2.0]


def test_initial_rates_are_those_at_construction() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = LearningRates(optimizer, [ScheduleConfig("linear")], EPOCHS, STEPS_PER_EPOCH)
    optimizer.param_groups[0]["lr"] = 0.001  # as a loaded state dict leaves it
    assert schedule.at(1) == [1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cosin"}, "kind is 'cosin'; allowed: constant, linear, cosine, multistep"),
        ({"per": "week"}, "per is 'week'; allowed: epoch, step"),
        ({"kind": "multistep"}, r"milestones is \[\] with kind multistep"),
        ({"milestones": (3,)}, r"milestones is \[3\] with kind constant"),
    ],
    ids=["kind", "per", "no-milestones", "milestones"],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ScheduleConfig(**settings)  # type: ignore[arg-type]


def test_another_number_of_schedules_is_refused() -> None:
    with pytest.raises(RecipeError, match="2 given, allowed: 1"):
        rates(ScheduleConfig(), ScheduleConfig())
