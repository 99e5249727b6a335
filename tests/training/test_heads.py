from typing import NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn

from stillbit.errors import DataError
from stillbit.training.heads import Heads, separate_heads


class Auxiliary(NamedTuple):
    logits: Tensor
    auxiliary: Tensor


def test_one_head_is_both() -> None:
    logits = torch.randn(2, 3)
    heads = Heads.of(logits)
    assert heads.classes is heads.distillation is heads.prediction is heads.for_loss().classes is logits


def test_two_heads_predict_by_their_mean() -> None:
    first, second = torch.randn(2, 3), torch.randn(2, 3)
    heads = Heads.of((first, second))
    assert torch.equal(heads.prediction, (first + second) / 2)
    assert (heads.classes is first, heads.distillation is second) == (True, True)


@pytest.mark.parametrize("output", [torch.zeros(2, 3), (torch.zeros(2, 3), torch.ones(2, 3))], ids=["one", "two"])
@pytest.mark.parametrize(("given", "wanted"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_losses_are_computed_in_full_precision(output: Tensor | tuple[Tensor, Tensor], given: torch.dtype, wanted: torch.dtype) -> None:
    cast = output.to(given) if isinstance(output, Tensor) else tuple(head.to(given) for head in output)
    heads = Heads.of(cast).for_loss()
    assert {head.dtype for head in heads} == {wanted}
    assert (heads.classes is heads.distillation) == isinstance(output, Tensor)


@pytest.mark.parametrize(
    "output",
    [Auxiliary(torch.zeros(1), torch.zeros(1)), (torch.zeros(1),) * 3, [torch.zeros(1)] * 2, None],
    ids=["named", "3", "list", "none"],
)
def test_other_outputs_are_refused(output: object) -> None:
    with pytest.raises(DataError, match=r"model output: a \w+ given, allowed: logits, or a pair of them"):
        Heads.of(output)


def test_a_distilled_transformer_gives_both_heads_in_training_only() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=1, img_size=32, embed_dim=16, num_heads=2, num_classes=3)
    images = torch.randn(2, 3, 32, 32)
    assert separate_heads(model)
    heads = model(images)
    assert [head.shape for head in heads] == [(2, 3), (2, 3)]
    assert torch.equal(model.eval()(images), Heads.of(heads).prediction)


def test_a_plain_network_has_one_head() -> None:
    assert not separate_heads(nn.Linear(2, 2))
