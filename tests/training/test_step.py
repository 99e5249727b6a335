from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stillbit.numerics.fast import settings
from stillbit.oscillation import Annealing
from stillbit.prepare import QuantConfig, calibrate, prepare
from stillbit.training import step as step_module
from stillbit.training.augment import AugmentConfig
from stillbit.training.config import TrainingConfig
from stillbit.training.session import Session
from stillbit.training.step import Stepper, copy_to_host

CLASSES, IMAGES = 5, 8
aten = torch.ops.aten


class Logits(nn.Module):
    """Gives its parameter, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(IMAGES, CLASSES, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0.0 * images.sum()


class NothingCrosses(TorchDispatchMode):
    """Refuses whatever makes the host wait for a device: reading a tensor's number, and arithmetic on a tensor made from a number."""

    def __init__(self) -> None:
        super().__init__()
        self.of_the_host: list[Tensor] = []  # the host may read these, for instance to round a number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func == aten.lift_fresh.default:
            self.of_the_host.append(result)
        else:
            known = any(arg is own for arg in tree_leaves(args) for own in self.of_the_host)
            assert known == (func == aten._local_scalar_dense.default), f"{func} in a step"
        return result


def stepper(model: nn.Module, augment: AugmentConfig, **settings: object) -> Stepper:
    config = TrainingConfig(device="cpu", precision="fp64", **settings)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Stepper(model, optimizer, scaler, Session.start(config), config, augment, CLASSES)


def batches(number: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.zeros(IMAGES, 1, 4, 4, dtype=torch.float64)
    return [(images, torch.randint(CLASSES, (IMAGES,), generator=generator)) for _ in range(number)]


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(mixup=1.0)], ids=["plain", "mixed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradient_are_those_of_soft_targets(augment: AugmentConfig, smoothing: float) -> None:
    model, given = Logits(), batches(3)
    taken = stepper(model, augment, label_smoothing=smoothing, accumulation=3)
    figures = taken.accumulate(7, iter(given))

    expected = torch.zeros((), dtype=torch.float64)
    logits = model.logits.detach().clone().requires_grad_()
    for number, (images, labels) in enumerate(given):
        mixed = taken.mix_and_seed(7, number, images, labels)
        own, other = (functional.one_hot(which, CLASSES).double() for which in (mixed.labels, mixed.other_labels))
        targets = mixed.share * own + (1 - mixed.share) * other
        expected = expected + functional.cross_entropy(logits, targets, label_smoothing=smoothing) / 3
    expected.backward()
    assert figures.loss == pytest.approx(expected.item(), rel=1e-12)  # the order of sums
    torch.testing.assert_close(model.logits.grad, logits.grad, rtol=1e-12, atol=1e-15)  # likewise
    assert figures.images == 3 * IMAGES
    assert figures.correct == sum((model.logits.argmax(1) == labels).sum().item() for _, labels in given)


def test_a_step_uses_its_own_gradients_only() -> None:
    model = Logits()
    taken = stepper(model, AugmentConfig())
    gradients = []
    for _ in range(2):
        taken.accumulate(1, iter(batches(1)))
        assert model.logits.grad is not None
        gradients.append(model.logits.grad.clone())
    assert torch.equal(*gradients)


def test_clipping_limits_the_norm_of_the_update() -> None:
    model = Logits()
    before = model.logits.detach().clone()
    taken = stepper(model, AugmentConfig(), clip_gradient_norm=0.01)
    taken.accumulate(1, iter(batches(1)))
    taken.update()
    # lr is 1; torch divides by the norm plus 1e-6
    assert (model.logits.detach() - before).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_the_signal_of_any_rank_is_told_to_all() -> None:
    model = Logits()
    for told in (False, True):
        assert stepper(model, AugmentConfig()).accumulate(1, iter(batches(1)), told_to_stop=told).told_to_stop == told


def test_figures_leave_the_device_before_the_last_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(values: Tensor) -> Callable[[], list[float]]:
        order.append("leave")
        read = copy_to_host(values)
        return lambda: (order.append("arrive"), read())[1]

    monkeypatch.setattr(step_module, "copy_to_host", noted)
    model = Logits()
    model.logits.register_hook(lambda _: order.append("backward"))
    stepper(model, AugmentConfig(), accumulation=3).accumulate(1, iter(batches(3)))
    assert order == ["backward", "backward", "leave", "backward", "arrive"]


@pytest.mark.parametrize("method", ["tracking", "dampening", "dampening_in_loss", "freezing", "annealing"])
def test_nothing_but_the_figures_crosses_to_the_host(runs: ModuleType, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "compile", False)  # what is compiled cannot be watched
    model = runs.tiny_model()
    images = torch.rand(16, 1, 8, 8)
    prepare(model, QuantConfig.parse("W3A3"), example=images[:1])
    calibrate(model, [(images,)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # Adam counts its steps on the host
    methods = [Annealing(model)] if method == "annealing" else runs.build_method(method, model, steps=8)
    for one in methods:
        one.attach(optimizer)
    config = runs.training_config(clip_gradient_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    augment = AugmentConfig(mixup=0.2, cutmix=1.0)
    taken = Stepper(model, optimizer, scaler, Session.start(config), config, augment, 10, methods)
    with NothingCrosses():
        for number in range(1, 5):
            taken.accumulate(number, iter([(images, torch.zeros(16, dtype=torch.int64))] * 2))
            taken.update()
