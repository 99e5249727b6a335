"""How methods ride on optimizers: once per real step, with the gradients of that step, or a clear refusal."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from timm.optim import Lookahead
from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.numerics.limits import SCALE_FLOOR
from stillbit.oscillation import Annealing, Dampening, Freezing, Method, Tracking
from stillbit.oscillation.hooks import lift_scales
from stillbit.prepare import scales, weights
from stillbit.quantizers import LSQ
from stillbit.training.optim import JointOptimizer
from tests.oscillation.small_models import calibrated, linear, network, one_weight, sgd

WEIGHT = 0.23  # value 0.2: the dampening gradient of weight 0.5 is 0.03


class Recorder(Method):
    """Notes what it is called with, and the gradient that is there."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.calls: list[tuple[str, int, float | None]] = []

    def metrics(self) -> dict[str, float]:
        return {}

    def before_step(self, step: int) -> None:
        gradient = self.model[0].weight.grad
        self.calls.append(("before", step, None if gradient is None else gradient.item()))

    def after_step(self, step: int) -> None:
        self.calls.append(("after", step, None))


def weight_gradient(model: nn.Module, gradient: float = 1.0) -> Tensor:
    """A loss whose gradient to the one weight is `gradient`."""
    return (model(torch.ones(1, 1)) * gradient).sum()


def test_hooks_run_around_each_step_and_count_from_one() -> None:
    model = one_weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    recorder = Recorder(model)
    assert recorder.attach(optimizer) is recorder
    for gradient in (2.0, 3.0):
        optimizer.zero_grad()
        weight_gradient(model, gradient).backward()
        optimizer.step()
    assert recorder.calls == [("before", 1, 2.0), ("after", 1, None), ("before", 2, 3.0), ("after", 2, None)]
    assert recorder.step == 2


@pytest.mark.parametrize("call", [lambda o, c: o.step(c), lambda o, c: o.step(closure=c)], ids=["positional", "keyword"])
def test_a_closure_runs_before_the_method(call: Callable[[Any, Any], Any]) -> None:
    model = one_weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    recorder = Recorder(model).attach(optimizer)

    def closure() -> float:
        optimizer.zero_grad()
        weight_gradient(model, 2.0).backward()
        return 7.0

    assert call(optimizer, closure) == 7.0
    assert recorder.calls == [("before", 1, 2.0), ("after", 1, None)]


def test_two_methods_and_a_closure() -> None:
    model = one_weight(WEIGHT)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    Dampening(model, weight=0.5, aggregation="sum").attach(optimizer)
    recorder = Recorder(model).attach(optimizer)
    optimizer.step(lambda: weight_gradient(model, 1.0).backward())
    assert recorder.calls[0] == ("before", 1, pytest.approx(1.03))


def test_accelerate_is_unwrapped_and_accumulation_counts_as_one_step() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = one_weight(WEIGHT)
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.0))
    Dampening(model, weight=0.5, aggregation="sum").attach(optimizer)
    recorder = Recorder(model).attach(optimizer)
    for _ in range(4):
        with accelerator.accumulate(model):
            accelerator.backward(weight_gradient(model, 1.0))
            optimizer.step()
            optimizer.zero_grad()
    # Accelerate halves each micro-batch's loss: 1/2 + 1/2 of the task, and the dampening gradient once.
    assert recorder.calls[::2] == [("before", 1, pytest.approx(1.03)), ("before", 2, pytest.approx(1.03))]


def test_a_joint_optimizer_is_one_optimizer() -> None:
    model = network()
    scales = [parameter for name, parameter in model.named_parameters() if name.endswith("scale")]
    weights = [parameter for name, parameter in model.named_parameters() if not name.endswith("scale")]
    optimizer = JointOptimizer(torch.optim.SGD(weights, lr=0.1), torch.optim.Adam(scales, lr=1e-5))
    freezing = Freezing(model, threshold=0.1).attach(optimizer)
    optimizer.step()
    assert freezing.step == 1


def test_an_optimizer_that_runs_no_hooks_is_refused() -> None:
    model = one_weight()
    with pytest.raises(PrepareError, match="Lookahead does not run torch's step hooks"):
        Recorder(model).attach(Lookahead(torch.optim.SGD(model.parameters())))


def test_something_else_is_refused() -> None:
    with pytest.raises(PrepareError, match=r"object given, allowed: a torch\.optim\.Optimizer"):
        Recorder(one_weight()).attach(object())


def test_attaching_twice_is_refused() -> None:
    model = one_weight()
    recorder = Recorder(model).attach(torch.optim.SGD(model.parameters()))
    with pytest.raises(PrepareError, match="Recorder is attached already"):
        recorder.attach(torch.optim.SGD(model.parameters()))


def test_an_optimizer_that_misses_a_scale_is_refused() -> None:
    model = network()
    optimizer = torch.optim.SGD([model[0].weight, model[3].weight, model[0].weight_quantizer.scale])
    with pytest.raises(PrepareError, match=r"misses 1 quantizer parameters, first 3\.weight_quantizer\.scale"):
        Recorder(model).attach(optimizer)


def test_scales_that_are_not_trained_need_not_be_there() -> None:
    model = one_weight()
    Recorder(model).attach(torch.optim.SGD([model[0].weight]))


def test_a_weight_quantizer_without_a_range_is_refused() -> None:
    model = network()
    model[3].weight_quantizer.is_calibrated = False
    with pytest.raises(PrepareError, match="weight quantizer of 3 has no range yet"):
        Recorder(model).attach(torch.optim.SGD(model.parameters()))


def learned() -> nn.Sequential:
    return nn.Sequential(linear(torch.tensor([[WEIGHT]]), calibrated(3, 0.2)))


def dampened_run(*, fused: bool, scaled: bool, gradients: tuple[float, ...]) -> tuple[nn.Module, Recorder]:
    model = learned()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
    Dampening(model, weight=0.5, aggregation="sum").attach(optimizer)
    recorder = Recorder(model).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    for gradient in gradients:
        optimizer.zero_grad()
        scaler.scale(weight_gradient(model, gradient)).backward()
        scaler.step(optimizer)
        scaler.update()
    return model, recorder


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_gradient_scaler_changes_nothing(fused: bool) -> None:
    """Bit equality: the scaler's factor is a power of two."""
    runs = [dampened_run(fused=fused, scaled=scaled, gradients=(1.0, 3.0, -2.0)) for scaled in (False, True)]
    (plain, _), (scaled, recorder) = runs
    assert torch.equal(plain[0].weight, scaled[0].weight)
    assert torch.equal(plain[0].weight_quantizer.scale, scaled[0].weight_quantizer.scale)
    assert recorder.step == 3


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_step_that_overflowed_is_no_step(fused: bool) -> None:
    without, _ = dampened_run(fused=fused, scaled=True, gradients=(1.0, 2.0))
    skipped, recorder = dampened_run(fused=fused, scaled=True, gradients=(1.0, float("inf"), 2.0))
    assert torch.equal(without[0].weight, skipped[0].weight)
    assert [call[:2] for call in recorder.calls] == [("before", 1), ("after", 1), ("before", 2), ("after", 2)]


def test_hooks_do_nothing_by_default() -> None:
    class Quiet(Method):
        def metrics(self) -> dict[str, float]:
            return {}

    model = network()
    optimizer = sgd(model)
    quiet = Quiet(model).attach(optimizer)
    optimizer.step()
    assert quiet.penalty() is None
    assert quiet.layer_metrics() == {}
    assert quiet.state_dict() == {"step": 1}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_order_of_attaching_changes_nothing(order: tuple[int, ...]) -> None:
    def trained(order: tuple[int, ...]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        methods: list[Method] = [
            Dampening(model, weight=0.5),
            Annealing(model, boundary_range=0.2),
            Freezing(model, threshold=0.05, ema_momentum=0.3),
            Tracking(model, ema_momentum=0.3),
        ]
        for place in order:
            methods[place].attach(optimizer)
        for step in range(12):
            optimizer.zero_grad()
            model(torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.step()
        tracked = {f"tracked {name}": tensor for name, tensor in methods[3].state_dict()["sites"]["0"].items()}
        return {**model.state_dict(), **methods[2].state_dict()["sites"]["0"], **tracked}

    expected, found = trained((0, 1, 2, 3)), trained(order)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_scales_are_lifted_without_a_method() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lift_scales(model, optimizer)
    lift_scales(model, optimizer)
    quantizers = [module for module in model.modules() if isinstance(module, LSQ)]
    for quantizer in quantizers:
        quantizer.scale.grad = torch.full_like(quantizer.scale, 1e3)
    optimizer.step()
    assert all(quantizer.scale.min() == SCALE_FLOOR for quantizer in quantizers)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda model: torch.optim.Adam(model.parameters(), lr=5.0), "a step of Adam moves it by up to 5"),
        (lambda model: torch.optim.Adam(model.parameters(), lr=1e-5, weight_decay=0.1), "weight decay 0.1 pulls"),
    ],
    ids=["learning rate", "weight decay"],
)
def test_an_optimizer_that_hurts_scales_is_warned_of_once(make: Any, told: str, caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = make(model)
    Tracking(model).attach(optimizer)
    Freezing(model, threshold=0.1).attach(optimizer)
    assert len([line for line in caplog.messages if told in line]) == 1


def test_a_sound_optimizer_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    Tracking(model).attach(JointOptimizer(torch.optim.SGD(weights(model), lr=0.01), torch.optim.Adam(scales(model), lr=1e-5)))
    assert caplog.messages == []
