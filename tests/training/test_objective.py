import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillbit.errors import DataError
from stillbit.training.augment import Mixed
from stillbit.training.distill import Distiller, soft_cross_entropy
from stillbit.training.heads import Heads
from stillbit.training.objective import objective

CLASSES, IMAGES = 5, 4


class Says(nn.Module):
    """A teacher that has one answer."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return self.answer + 0.0 * images.sum()


def batch(share: float = 1.0) -> Mixed:
    labels = torch.tensor([0, 3, 1, 4])
    return Mixed(torch.zeros(IMAGES, 1, 2, 2, dtype=torch.float64), labels, labels.flip(0), share)


def two_heads() -> Heads:
    torch.manual_seed(1)
    return Heads(torch.randn(IMAGES, CLASSES, dtype=torch.float64), torch.randn(IMAGES, CLASSES, dtype=torch.float64))


@pytest.mark.parametrize("share", [1.0, 0.3], ids=["plain", "mixed"])
def test_labels_teach_the_class_head_and_the_teacher_the_other(share: float) -> None:
    heads, given, answer = two_heads(), batch(share), torch.randn(IMAGES, CLASSES, dtype=torch.float64)
    found = objective(heads, given, num_classes=CLASSES, label_smoothing=0.1, distiller=Distiller(Says(answer)))
    own, other = (functional.one_hot(labels, CLASSES).double() for labels in (given.labels, given.other_labels))
    hard = functional.cross_entropy(heads.classes, share * own + (1 - share) * other, label_smoothing=0.1)
    expected = hard + soft_cross_entropy(heads.distillation, answer)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)  # the order of sums


def test_one_head_learns_from_both() -> None:
    logits, answer = two_heads().classes, two_heads().distillation
    found = objective(Heads.of(logits), batch(), num_classes=CLASSES, distiller=Distiller(Says(answer)))
    assert torch.equal(found, soft_cross_entropy(logits, answer) + functional.cross_entropy(logits, batch().labels))


def test_either_head_must_speak_of_the_datas_classes() -> None:
    heads = Heads(torch.zeros(IMAGES, CLASSES), torch.zeros(IMAGES, 3))
    with pytest.raises(DataError, match="model output: 3 values an image given, the data has 5 classes"):
        objective(heads, batch(), num_classes=CLASSES)
