"""What a step minimizes: cross-entropy with mixed and smoothed labels, and what a teacher adds to it."""

from torch import Tensor
from torch.nn import functional

from stillbit.training.augment import Mixed
from stillbit.training.distill import Distiller
from stillbit.training.evaluate import check_num_classes
from stillbit.training.heads import Heads


def objective(heads: Heads, batch: Mixed, *, num_classes: int, label_smoothing: float = 0.0, distiller: Distiller | None = None) -> Tensor:
    """Return the mean loss of a micro-batch."""
    for logits in heads:
        check_num_classes(logits, num_classes)
    heads = heads.for_loss()
    hard = _cross_entropy(heads.classes, batch, label_smoothing)
    return hard if distiller is None else distiller.loss(heads, distiller.teach(batch.images), hard)


def _cross_entropy(logits: Tensor, batch: Mixed, label_smoothing: float) -> Tensor:
    loss = functional.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
    if batch.share == 1.0:
        return loss
    other = functional.cross_entropy(logits, batch.other_labels, label_smoothing=label_smoothing)
    return batch.share * loss + (1.0 - batch.share) * other
