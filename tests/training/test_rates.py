import itertools

import pytest
import torch
from torch import nn

from stillbit.errors import RecipeError
from stillbit.training.rates import LearningRates, ScheduleConfig
from stillbit.training.timetable import FinalStage, Timetable

EPOCHS, STEPS_PER_EPOCH = 4, 3


def rates(*schedules: ScheduleConfig, lr: float = 1.0) -> LearningRates:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)
    return LearningRates(optimizer, schedules, Timetable(EPOCHS), STEPS_PER_EPOCH)


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


PUBLISHED = ScheduleConfig("cosine", end=1e-5, warmup_epochs=5, warmup_start=1e-6)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    # docs/spec/vit.md, 7; from epoch 300 on the cool-down, from 310 on the annealing stage
    [
        (0, 1e-6),
        (1, 1.102e-4),
        (5, 5.466e-4),
        (100, 4.128e-4),
        (200, 1.443e-4),
        (299, 1.0015e-5),
        (300, 1e-5),
        (309, 1e-5),
        (310, 3e-6),
        (339, 3e-6),
    ],
)
def test_published_schedule_of_vision_transformers(epoch: int, expected: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=5.47e-4)
    found = LearningRates(optimizer, [PUBLISHED], Timetable(300, 10, FinalStage(epochs=30, lr=3e-6)), STEPS_PER_EPOCH)
    steps = range(epoch * STEPS_PER_EPOCH + 1, (epoch + 1) * STEPS_PER_EPOCH + 1)
    assert [found.at(step)[0] for step in steps] == pytest.approx([expected] * STEPS_PER_EPOCH, rel=5e-4)  # printed with four digits


def test_warmup_and_cosine_equal_timms_scheduler() -> None:
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=5.47e-4)
    ours = LearningRates(optimizer, [PUBLISHED], Timetable(300, 10), 1)
    theirs = CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    expected = []
    for epoch in range(310):
        theirs.step(epoch)
        expected.append(optimizer.param_groups[0]["lr"])
    assert [ours.at(step)[0] for step in range(1, 311)] == pytest.approx(expected, rel=1e-12)  # the order of sums


def test_warmup_per_step_rises_to_the_schedule_in_a_line() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = ScheduleConfig("constant", warmup_epochs=2, warmup_start=0.4, per="step")
    found = LearningRates(optimizer, [schedule], Timetable(EPOCHS), STEPS_PER_EPOCH)
    assert [found.at(step)[0] for step in (1, 3, 6, 7)] == pytest.approx([0.5, 0.7, 1.0, 1.0], rel=1e-12)  # 6 steps of 0.1


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_stages_change_at_their_first_step(per: str) -> None:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (1.0, 2.0)])
    schedules = [ScheduleConfig("linear", end=0.5, per=per)] * 2
    found = LearningRates(optimizer, schedules, Timetable(EPOCHS, 1, FinalStage(epochs=2, lr=0.1)), STEPS_PER_EPOCH)
    cooldown, final = EPOCHS * STEPS_PER_EPOCH + 1, (EPOCHS + 1) * STEPS_PER_EPOCH + 1
    assert [found.at(step) for step in (cooldown, final - 1)] == [[0.5, 0.5]] * 2
    assert [found.at(step) for step in (final, final + 5)] == [[0.1, 0.1]] * 2


@pytest.mark.parametrize("schedule", [ScheduleConfig("cosine"), ScheduleConfig("linear", per="step")], ids=["epoch", "step"])
def test_a_run_may_be_its_final_stage_alone(schedule: ScheduleConfig) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    assert LearningRates(optimizer, [schedule], Timetable(0, 0, FinalStage(epochs=2, lr=0.1)), STEPS_PER_EPOCH).at(1) == [0.1]


def test_constant_is_the_default() -> None:
    assert rates(lr=0.3).at(12) == [0.3]


def test_set_writes_each_group() -> None:
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [parameters[0]], "lr": 1.0}, {"params": [parameters[1]], "lr": 2.0}])
    schedule = LearningRates(optimizer, [ScheduleConfig("linear"), ScheduleConfig()], Timetable(EPOCHS), STEPS_PER_EPOCH)
    schedule.set(7)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 2.0]


def test_initial_rates_are_those_at_construction() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = LearningRates(optimizer, [ScheduleConfig("linear")], Timetable(EPOCHS), STEPS_PER_EPOCH)
    optimizer.param_groups[0]["lr"] = 0.001  # as a loaded state dict leaves it
    assert schedule.at(1) == [1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cosin"}, "kind is 'cosin'; allowed: constant, linear, cosine, multistep"),
        ({"per": "week"}, "per is 'week'; allowed: epoch, step"),
        ({"kind": "multistep"}, r"milestones is \[\] with kind multistep"),
        ({"milestones": (3,)}, r"milestones is \[3\] with kind constant"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1; allowed: 0 or more"),
        ({"warmup_epochs": 1, "warmup_start": -1.0}, "warmup_start is -1.0; allowed: 0 or more"),
        ({"warmup_start": 1e-6}, "warmup_start is 1e-06; allowed: 0 or more, above 0 only with warmup_epochs"),
    ],
    ids=["kind", "per", "no-milestones", "milestones", "warmup", "negative-start", "start-without-warmup"],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ScheduleConfig(**settings)  # type: ignore[arg-type]


def test_another_number_of_schedules_is_refused() -> None:
    with pytest.raises(RecipeError, match="2 given, allowed: 1"):
        rates(ScheduleConfig(), ScheduleConfig())
