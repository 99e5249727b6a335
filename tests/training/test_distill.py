import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillbit.training.distill import Distiller, soft_cross_entropy
from stillbit.training.heads import Heads


def logits(seed: int, images: int = 4, classes: int = 5) -> Tensor:
    return torch.randn(images, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def two_headed(**settings: float) -> nn.Module:
    torch.manual_seed(3)
    size = {"depth": 2, "img_size": 32, "embed_dim": 16, "num_heads": 2, "num_classes": 5}
    model: nn.Module = timm.create_model("deit_tiny_distilled_patch16_224", **size, **settings)
    nn.init.normal_(model.head_dist.weight)  # both begin at zero
    nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_loss_is_the_divergence_plus_the_teachers_entropy(temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    found = soft_cross_entropy(student, teacher, temperature)
    target = (teacher / temperature).softmax(1)
    divergence = functional.kl_div((student / temperature).log_softmax(1), target, reduction="batchmean")
    entropy = -(target * target.log()).sum(1).mean()
    torch.testing.assert_close(found, divergence + entropy, rtol=1e-12, atol=0)  # the order of sums


def test_gradient_is_the_difference_of_probabilities() -> None:
    student, teacher = logits(1).requires_grad_(), logits(2)
    soft_cross_entropy(student, teacher).backward()
    torch.testing.assert_close(student.grad, (student.softmax(1) - teacher.softmax(1)).detach() / 4, rtol=1e-12, atol=1e-15)  # likewise


def test_weights_join_both_losses() -> None:
    heads, teacher, hard = Heads(logits(1), logits(2)), logits(3), torch.tensor(7.0, dtype=torch.float64)
    distiller = Distiller(nn.Identity(), temperature=2.0, soft_weight=0.5, hard_weight=0.25)
    expected = 0.5 * soft_cross_entropy(heads.distillation, teacher, 2.0) + 0.25 * hard
    assert torch.equal(distiller.loss(heads, teacher, hard), expected)


def test_the_teacher_is_frozen_and_in_evaluation() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 5))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    distiller = Distiller(teacher)
    images = torch.randn(4, 3, 8, 8)
    given = distiller.teach(images)
    assert torch.equal(given, distiller.teach(images))
    assert not given.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_what_a_teacher_says_can_be_learnt_from() -> None:
    student = nn.Linear(8, 5)
    images = torch.randn(4, 8)
    given = Distiller(nn.Linear(8, 5)).teach(images)
    assert not given.is_inference()  # autograd would refuse to save it
    soft_cross_entropy(student(images), given).backward()
    assert student.weight.grad.abs().sum() > 0


def test_the_class_head_of_two_teaches_without_dropout() -> None:
    images = torch.randn(4, 3, 32, 32)
    plain = two_headed().eval()
    expected = plain.head(plain.forward_features(images)[:, 0])
    dropping = {"drop_rate": 0.5, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5, "pos_drop_rate": 0.5, "drop_path_rate": 0.5}
    distiller = Distiller(two_headed(**dropping))
    distiller.teacher.load_state_dict(plain.state_dict())
    assert torch.equal(distiller.teach(images), expected)
    assert not torch.allclose(plain(images), expected)  # the mean of both heads


@pytest.mark.parametrize("outer", [False, True], ids=["plain", "student-under-autocast"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_teachers_precision_is_its_own(outer: bool, precision: str) -> None:
    teacher, images = nn.Linear(8, 5), torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=outer):
        given = Distiller(teacher, precision=precision).teach(images)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = teacher(images).float()
    assert given.dtype == torch.float32
    assert torch.equal(given, expected)
