"""Golden losses of distillation (docs/spec/vit.md, 6), with the gradients of the student's logits.

The published teacher collects gradients that nothing uses; ours has none, so `grad.teacher0` has no counterpart.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillbit.training.distill import Distiller, soft_cross_entropy
from stillbit.training.heads import Heads
from tests.golden.case import Case, close


class Says(nn.Module):
    """A teacher that gives what it was given."""

    def __init__(self, answer: Tensor | tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # noqa: ARG002 - every network takes images
        return self.answer


def check_distillation(case: Case) -> dict[str, float]:
    logits = [case.tensors[name].double().requires_grad_() for name in ("out0", "out1") if name in case.tensors]
    teacher = [case.tensors[name].double() for name in ("teacher0", "teacher1") if name in case.tensors]
    distiller = Distiller(Says(teacher[0] if len(teacher) == 1 else (teacher[0], teacher[1])))
    answer = distiller.teach(torch.zeros(1))
    loss = _loss(case, distiller, logits, answer)
    loss.sum().backward()
    errors = {"loss": close(loss, case.tensors["loss"], 1e-9, "loss")}
    for index, given in enumerate(logits):
        if given.grad is not None:
            name = f"grad.out{index}"
            errors[name] = close(given.grad, case.tensors[name], 1e-9, name)
    assert {f"grad.out{index}" for index, given in enumerate(logits) if given.grad is not None} == {
        name for name in case.tensors if name.startswith("grad.out")
    }
    return errors


def _loss(case: Case, distiller: Distiller, logits: list[Tensor], answer: Tensor) -> Tensor:
    """Return the loss as the case reduces it; ours is the mean over the batch, so of a batch of one it is an image's own."""
    hard = case.tensors.get("hard")
    reduction = case.config["reduction"]
    if reduction == "mean":
        return _mean_loss(case, distiller, logits, answer, hard)
    images = [slice(index, index + 1) for index in range(len(answer))]
    losses = [_mean_loss(case, distiller, [one[i] for one in logits], answer[i], None if hard is None else hard[i]) for i in images]
    return {"none": torch.stack, "sum": sum}[reduction](losses)


def _mean_loss(case: Case, distiller: Distiller, logits: list[Tensor], answer: Tensor, hard: Tensor | None) -> Tensor:
    if case.config["op"] == "KLLossSoft":  # of a pair, the first alone
        return soft_cross_entropy(logits[0], answer, case.config["temperature"])
    heads = Heads.of(logits[0] if len(logits) == 1 else tuple(logits))
    assert hard is not None
    target = hard.double() if case.config["hard"] == "prob" else hard.long()
    return distiller.loss(heads, answer, functional.cross_entropy(heads.classes, target))
