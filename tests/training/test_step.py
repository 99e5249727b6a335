import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillbit.training.augment import AugmentConfig
from stillbit.training.config import TrainingConfig
from stillbit.training.objective import Objective
from stillbit.training.processes import start_processes
from stillbit.training.step import Stepper

CLASSES, IMAGES = 5, 8


class Logits(nn.Module):
    """Gives its parameter, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(IMAGES, CLASSES, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0.0 * images.sum()


def stepper(model: Logits, augment: AugmentConfig, **settings: object) -> Stepper:
    config = TrainingConfig(device="cpu", precision="fp64", **settings)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Stepper(model, optimizer, scaler, start_processes(config), config, augment, Objective(CLASSES, config.label_smoothing), ())


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
