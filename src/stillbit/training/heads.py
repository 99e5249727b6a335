"""Outputs of classifiers: one tensor of logits, or two where a second head learns from a teacher (DeiT, arXiv 2012.12877, section 4)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillbit.errors import DataError


class Heads(NamedTuple):
    """Logits (N, classes) of both heads; a network of one head has the same tensor twice."""

    classes: Tensor
    distillation: Tensor

    @classmethod
    def of(cls, output: object) -> "Heads":
        """Take a network's output apart.

        Args:
            output: A tensor, or a pair of them: class head, distillation head.

        Returns:
            The heads.

        Raises:
            DataError: If it is something else.
        """
        if isinstance(output, Tensor):
            return cls(output, output)
        if type(output) is tuple and len(output) == 2 and all(isinstance(head, Tensor) for head in output):
            return cls(*output)
        raise DataError(
            f"model output: a {type(output).__name__} given, allowed: logits, or a pair of them (class head, distillation head)"
        )

    @property
    def prediction(self) -> Tensor:
        """The mean of both heads, as evaluation takes it; one head's logits as they are."""
        return self.classes if self.classes is self.distillation else (self.classes + self.distillation) / 2

    def for_loss(self) -> "Heads":
        """Return the logits at least in float32, whatever autocast made of them."""
        if self.classes.dtype == torch.float64:
            return self
        classes = self.classes.float()
        return Heads(classes, classes if self.classes is self.distillation else self.distillation.float())


def separate_heads(model: nn.Module) -> bool:
    """Let a network of two heads give both in training. Timm's give their mean unless told otherwise, so neither would learn its part."""
    separate = getattr(model, "set_distilled_training", None)
    if separate is None:
        return False
    separate(True)
    return True
