from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from stillbit.errors import RecipeError
from stillbit.training.optim import JointOptimizer, OptimizerConfig, build_optimizer, check_complete, group_schedules
from stillbit.training.rates import ScheduleConfig


def two_parameters() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([0.5]))


def joint(weight: nn.Parameter, scale: nn.Parameter) -> JointOptimizer:
    return JointOptimizer(torch.optim.SGD([weight], lr=0.1, momentum=0.9), torch.optim.Adam([scale], lr=0.01))


def take_step(optimizer: torch.optim.Optimizer, weight: nn.Parameter, scale: nn.Parameter) -> None:
    optimizer.zero_grad()
    ((weight * scale) ** 2).sum().backward()
    optimizer.step()


def test_step_equals_the_parts_stepping_alone() -> None:
    joined, apart = two_parameters(), two_parameters()
    optimizer = joint(*joined)
    parts = torch.optim.SGD([apart[0]], lr=0.1, momentum=0.9), torch.optim.Adam([apart[1]], lr=0.01)
    for _ in range(3):
        take_step(optimizer, *joined)
        for part in parts:
            part.zero_grad()
        ((apart[0] * apart[1]) ** 2).sum().backward()
        for part in parts:
            part.step()
    assert torch.equal(joined[0], apart[0])
    assert torch.equal(joined[1], apart[1])


def test_groups_are_the_parts_own() -> None:
    optimizer = joint(*two_parameters())
    optimizer.param_groups[1]["lr"] = 7.0
    assert optimizer.parts[1].param_groups[0]["lr"] == 7.0


def test_groups_are_the_parts_own_after_loading() -> None:
    optimizer = joint(*two_parameters())
    optimizer.load_state_dict(joint(*two_parameters()).state_dict())
    optimizer.param_groups[0]["lr"] = 7.0
    assert optimizer.parts[0].param_groups[0]["lr"] == 7.0


def test_state_dict_round_trip_continues_the_same_run() -> None:
    first, second = two_parameters(), two_parameters()
    ahead, behind = joint(*first), joint(*second)
    for _ in range(2):
        take_step(ahead, *first)
    behind.load_state_dict(deepcopy(ahead.state_dict()))  # torch keeps the tensors that it is given
    for target, source in zip(second, first, strict=True):
        target.data.copy_(source.data)
    take_step(ahead, *first)
    take_step(behind, *second)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_state_shows_the_parts_state_after_a_step() -> None:
    weight, scale = two_parameters()
    optimizer = joint(weight, scale)
    take_step(optimizer, weight, scale)
    assert "momentum_buffer" in optimizer.state[weight]
    assert "exp_avg" in optimizer.state[scale]


def test_another_number_of_parts_is_refused() -> None:
    weight, scale = two_parameters()
    with pytest.raises(ValueError, match="1 parts given, allowed: 2"):
        joint(weight, scale).load_state_dict(JointOptimizer(torch.optim.SGD([weight], lr=0.1)).state_dict())


def test_hooks_run_once_a_step() -> None:
    parameters = two_parameters()
    optimizer = joint(*parameters)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    take_step(optimizer, *parameters)
    assert calls == ["before", "after"]


def test_closure_runs_once_before_any_part_steps() -> None:
    weight, scale = two_parameters()
    optimizer = joint(weight, scale)
    seen: list[tuple[list[float], list[float]]] = []

    def closure() -> torch.Tensor:
        seen.append((weight.tolist(), scale.tolist()))
        optimizer.zero_grad()
        loss = ((weight * scale) ** 2).sum()
        loss.backward()
        return loss

    weight.grad, scale.grad = torch.ones(2), torch.ones(1)  # a step before the closure would use these
    loss = optimizer.step(closure)
    assert seen == [([1.0, -2.0], [0.5])]
    assert loss.item() == 1.25
    assert weight.tolist() != [1.0, -2.0]
    assert scale.tolist() != [0.5]


@pytest.mark.parametrize("overflow", ["weight", "scale"])
def test_gradient_scaler_skips_all_parts_together(overflow: str) -> None:
    weight, scale = two_parameters()
    optimizer = joint(weight, scale)
    calls: list[int] = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weight.grad, scale.grad = torch.ones(2), torch.ones(1)
    chosen = weight if overflow == "weight" else scale
    chosen.grad.fill_(float("inf"))
    scaler.scale(torch.ones(()))  # creates the scale
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [1.0, -2.0]
    assert scale.tolist() == [0.5]
    assert calls == []
    assert scaler.get_scale() == 2.0


def test_gradient_scaler_unscales_every_part() -> None:
    scaled, plain = two_parameters(), two_parameters()
    optimizers = joint(*scaled), joint(*plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(((scaled[0] * scaled[1]) ** 2).sum()).backward()
    scaler.step(optimizers[0])
    take_step(optimizers[1], *plain)
    assert torch.equal(scaled[0], plain[0])
    assert torch.equal(scaled[1], plain[1])


def test_accelerates_wrapper_steps_and_restores_it() -> None:
    from accelerate import Accelerator

    Accelerator(cpu=True)  # the wrapper needs its state
    parameters = two_parameters()
    optimizer = joint(*parameters)
    wrapped = AcceleratedOptimizer(optimizer)
    calls: list[int] = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    take_step(wrapped, *parameters)
    wrapped.load_state_dict(wrapped.state_dict())
    take_step(wrapped, *parameters)
    assert calls == [1, 1]


def test_learning_rate_schedulers_of_torch_accept_it() -> None:
    parameters = two_parameters()
    optimizer = joint(*parameters)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    take_step(optimizer, *parameters)
    scheduler.step()
    assert [group["lr"] for group in optimizer.parts[0].param_groups] == pytest.approx([0.01])  # 0.1 * 0.1 rounds


def test_a_foreign_group_is_refused() -> None:
    with pytest.raises(ValueError, match="belongs to no part"):
        joint(*two_parameters()).add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def test_a_parameter_in_two_parts_is_refused() -> None:
    weight, _ = two_parameters()
    with pytest.raises(ValueError, match="more than one parameter group"):
        JointOptimizer(torch.optim.SGD([weight], lr=0.1), torch.optim.Adam([weight], lr=0.1))


def test_no_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="0 parts given"):
        JointOptimizer()


def test_published_recipe() -> None:
    weight, scale = two_parameters()
    config = OptimizerConfig("sgd", lr=0.0033, momentum=0.9, weight_decay=5e-5)
    optimizer = build_optimizer([weight], [scale], config, OptimizerConfig("adam", lr=1e-5))
    weights, scales = optimizer.param_groups
    assert [type(part) for part in optimizer.parts] == [torch.optim.SGD, torch.optim.Adam]
    assert (weights["lr"], weights["momentum"], weights["weight_decay"], weights["nesterov"]) == (0.0033, 0.9, 5e-5, False)
    assert (scales["lr"], scales["weight_decay"], scales["betas"]) == (1e-5, 0.0, (0.9, 0.999))


def test_scales_without_settings_of_their_own_do_not_decay() -> None:
    weight, scale = two_parameters()
    optimizer = build_optimizer([weight], [scale], OptimizerConfig("sgd", weight_decay=0.1))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_what_should_not_decay_is_a_group_of_its_own(name: str) -> None:
    weight, scale = two_parameters()
    norm = nn.Parameter(torch.ones(3))
    config = OptimizerConfig(name, lr=0.1, weight_decay=0.05, decay_norms=False)
    optimizer = build_optimizer([weight, norm], [scale], config, undecayed=[norm])
    found = [(group["params"], group["weight_decay"], group["lr"]) for group in optimizer.param_groups]
    assert found == [([weight], 0.05, 0.1), ([norm], 0.0, 0.1), ([scale], 0.0, 0.1)]
    assert len(optimizer.parts) == 2


def test_norms_decay_by_default() -> None:
    weight, norm = two_parameters()
    optimizer = build_optimizer([weight, norm], [], OptimizerConfig("adamw", weight_decay=0.05), undecayed=[norm])
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [(2, 0.05)]


@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["own-scales", "joint"])
def test_each_group_has_the_schedule_of_its_settings(decay_norms: bool, own: bool) -> None:
    weight, scale = two_parameters()
    norm = nn.Parameter(torch.ones(3))
    config = OptimizerConfig("adamw", decay_norms=decay_norms, schedule=ScheduleConfig("cosine"))
    of_scales = OptimizerConfig("adam", schedule=ScheduleConfig("linear")) if own else None
    built = build_optimizer([weight, norm], [scale], config, of_scales, undecayed=[norm])
    kinds = [schedule.kind for schedule in group_schedules(built, config, of_scales)]
    assert kinds == ["cosine"] * (1 if decay_norms else 2) + ["linear" if own else "cosine"]
    alone = build_optimizer([weight], [], config)
    assert group_schedules(alone, config, of_scales) == (config.schedule,)


def test_a_float_model_has_one_part() -> None:
    assert len(build_optimizer([two_parameters()[0]], [], OptimizerConfig()).parts) == 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "rmsprop", "lion"])
def test_every_named_optimizer_steps_with_hooks(name: str) -> None:
    parameters = two_parameters()
    optimizer = build_optimizer(list(parameters), [], OptimizerConfig(name, lr=0.1))
    take_step(optimizer, *parameters)
    assert parameters[0].tolist() != [1.0, -2.0]


@pytest.mark.parametrize("name", ["sdg", "lookahead_sgd"])
def test_unknown_optimizers_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"optimizer name is '{name}'; allowed: sgd, adam, adamw"):
        build_optimizer(list(two_parameters()), [], OptimizerConfig(name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        ({"name": "adam", "nesterov": True}, "nesterov is true with adam"),
        ({"betas": (0.9, 0.99)}, "betas is"),
        ({"name": "adam", "betas": (0.9,)}, "betas is"),
    ],
    ids=["negative", "nan", "infinite", "nesterov-adam", "betas-sgd", "one-beta"],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        OptimizerConfig(**settings)  # type: ignore[arg-type]


def test_an_optimizer_that_misses_a_parameter_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(RecipeError, match=r"misses 1 trainable parameters, first 1\.bias"):
        check_complete(model, torch.optim.SGD([*model[0].parameters(), model[1].weight], lr=0.1))


def test_a_frozen_parameter_may_be_missing() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    check_complete(model, torch.optim.SGD([model.weight], lr=0.1))


PARTS: dict[str, Callable[[nn.Parameter, nn.Parameter], tuple[torch.optim.Optimizer, ...]]] = {
    "sgd-adam": lambda w, s: (torch.optim.SGD([w], lr=0.1, momentum=0.9), torch.optim.Adam([s], lr=1e-3)),
    "adam-sgd": lambda w, s: (torch.optim.AdamW([w], lr=0.1), torch.optim.SGD([s], lr=1e-3, momentum=0.9)),
    "adam-adam": lambda w, s: (torch.optim.AdamW([w], lr=0.1), torch.optim.Adam([s], lr=1e-3)),
    "sgd-sgd": lambda w, s: (torch.optim.SGD([w], lr=0.1, momentum=0.9), torch.optim.SGD([s], lr=1e-3, momentum=0.9)),
    "sgd": lambda w, s: (torch.optim.SGD([w, s], lr=0.1, momentum=0.9),),
}
SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]] = {
    "one-cycle": lambda by: torch.optim.lr_scheduler.OneCycleLR(by, max_lr=[group["lr"] for group in by.param_groups], total_steps=9),
    "cyclic": lambda by: torch.optim.lr_scheduler.CyclicLR(by, base_lr=1e-4, max_lr=1e-2, step_size_up=2),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("parts", PARTS)
def test_schedules_that_move_momentum_take_a_joint_optimizer(parts: str, schedule: str) -> None:
    weight, scale = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    given = PARTS[parts](weight, scale)
    options = [{name: value for name, value in group.items() if name != "params"} for part in given for group in part.param_groups]
    joint = JointOptimizer(*given)
    assert [{name: value for name, value in group.items() if name != "params"} for group in joint.param_groups] == options
    moving = SCHEDULES[schedule](joint)
    rates = []
    for _ in range(4):
        (weight.sum() + scale.sum()).backward()
        joint.step()
        moving.step()
        rates.append([group["lr"] for group in joint.param_groups])
    assert all(len({rate[group] for rate in rates}) > 1 for group in range(len(joint.param_groups)))


def test_a_part_that_needs_a_closure_gets_it() -> None:
    weight, scale = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([3.0]))
    joint = JointOptimizer(torch.optim.LBFGS([weight], lr=1.0), torch.optim.SGD([scale], lr=0.1))

    def closure() -> Tensor:
        joint.zero_grad()
        loss = ((weight - 1.0) ** 2 + (scale - 1.0) ** 2).sum()
        loss.backward()
        return loss

    assert joint.step(closure).item() == 8.0
    assert weight.item() == pytest.approx(1.0, abs=1e-3)  # LBFGS ends within its own tolerance
    assert 1.0 < scale.item() < 3.0
