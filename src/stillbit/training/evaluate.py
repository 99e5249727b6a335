"""Evaluation: exact counts over all ranks, and not one bit of the model changed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillbit.errors import DataError


@dataclass(frozen=True)
class Evaluation:
    """Figures over a whole split.

    Args:
        loss: Mean cross-entropy.
        top1: Share of images whose label has the largest logit.
        top5: Share whose label is among the five largest (or all, with fewer classes).
        count: Number of images.
    """

    loss: float
    top1: float
    top5: float
    count: int


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> Evaluation:
    """Evaluate a model. Every rank passes its own batches; all get the same figures."""
    with _evaluating(model), torch.inference_mode():
        totals = _sum_over_ranks([_measure(model, images, labels, num_classes) for images, labels in batches])
    count = int(totals[3])
    if count == 0:
        raise DataError("evaluation: 0 images given, allowed: 1 or more")
    return Evaluation(loss=totals[0] / count, top1=totals[1] / count, top5=totals[2] / count, count=count)


def check_num_classes(logits: Tensor, num_classes: int) -> None:
    """Check that a model speaks of the data's classes."""
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        shape = "x".join(map(str, logits.shape[1:]))
        raise DataError(f"model output: {shape} values an image given, the data has {num_classes} classes")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]  # a model may keep some layers in eval for good
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _measure(model: nn.Module, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return sums of loss, top-1 hits, top-5 hits and images; float64, exact for the counts."""
    logits = model(images)
    check_num_classes(logits, num_classes)
    loss = functional.cross_entropy(logits.double(), labels, reduction="sum")
    ranked = logits.topk(min(5, num_classes), dim=1).indices
    hits = (ranked == labels[:, None]).double()
    return torch.stack([loss, hits[:, 0].sum(), hits.sum(), loss.new_full((), len(labels))])


def _sum_over_ranks(sums: list[Tensor]) -> list[float]:
    # A rank without any batch still takes part, with zeros.
    total = torch.stack(sums).sum(0) if sums else torch.zeros(4, dtype=torch.float64)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        if torch.distributed.get_backend() == "nccl":
            total = total.cuda()
        torch.distributed.all_reduce(total)
    values: list[float] = total.tolist()
    return values
