"""What a step minimizes: cross-entropy with mixed and smoothed labels, and what a teacher adds to it."""

from typing import final

from torch import Tensor
from torch.nn import functional

from stillbit.training.augment import Mixed
from stillbit.training.distill import Distiller
from stillbit.training.evaluate import check_num_classes
from stillbit.training.heads import Heads


@final
class Objective:
    """The loss of a micro-batch.

    Args:
        num_classes: Classes of the data.
        label_smoothing: Of the labels, 0 to 1.
        distiller: Adds the loss against a teacher; None: labels alone.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, distiller: Distiller | None = None) -> None:
        self._num_classes = num_classes
        self._label_smoothing = label_smoothing
        self._distiller = distiller

    def loss(self, heads: Heads, batch: Mixed) -> Tensor:
        """Compute the loss.

        Args:
            heads: The network's logits for the batch's images.
            batch: Images and labels.

        Returns:
            The mean over the batch.

        Raises:
            DataError: If the network speaks of another number of classes than the data.
        """
        for logits in heads:
            check_num_classes(logits, self._num_classes)
        heads = heads.for_loss()
        hard = self._cross_entropy(heads.classes, batch)
        if self._distiller is None:
            return hard
        return self._distiller.loss(heads, self._distiller.teach(batch.images), hard)

    def _cross_entropy(self, logits: Tensor, batch: Mixed) -> Tensor:
        loss = functional.cross_entropy(logits, batch.labels, label_smoothing=self._label_smoothing)
        if batch.share == 1.0:
            return loss
        other = functional.cross_entropy(logits, batch.other_labels, label_smoothing=self._label_smoothing)
        return batch.share * loss + (1.0 - batch.share) * other
