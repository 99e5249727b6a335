"""Distillation: a float teacher says of each training image how likely every class is.

Source: "Oscillation-free Quantization for Low-bit Vision Transformers" (arXiv 2302.02210), whose student learns from its own float
network; the distillation head is that of DeiT (arXiv 2012.12877).
Deviates from its reference code in: the teacher is in evaluation mode and gets no gradient. As there, the class head of a teacher with two
heads teaches the distillation head of a student with two, and the loss is not multiplied by the squared temperature.
"""

from typing import Literal, final

import torch
from torch import Tensor, nn

from stillbit.training.heads import Heads, separate_heads


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the cross-entropy between two networks' class probabilities, `-sum softmax(t / T) log_softmax(o / T)`, mean over the batch.

    Args:
        logits: `o`, of the student, (N, classes).
        teacher_logits: `t`, (N, classes).
        temperature: `T`; above 1 it brings small probabilities out.

    Returns:
        A number; at least the entropy of the teacher, which is not subtracted.

    Examples:
        >>> logits = torch.zeros(1, 2, requires_grad=True)
        >>> soft_cross_entropy(logits, torch.tensor([[0.0, -100.0]])).backward()
        >>> logits.grad  # softmax(o) - softmax(t)
        tensor([[-0.5000,  0.5000]])
    """
    target = (teacher_logits / temperature).softmax(1)
    return -(target * (logits / temperature).log_softmax(1)).sum(1).mean()


@final
class Distiller:
    """A teacher, and the loss that it brings. It belongs to no optimizer and no checkpoint.

    Args:
        teacher: A float classifier of the student's classes, placed where the student is. Is put into evaluation mode, for good.
        temperature: Of both networks' probabilities.
        soft_weight: Weight of the loss against the teacher.
        hard_weight: Weight of the loss against the labels.
        precision: `bf16` runs the teacher under autocast; `fp32` in the precision of its weights, whatever the student's.

    Attributes:
        teacher: The teacher.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        temperature: float = 1.0,
        soft_weight: float = 1.0,
        hard_weight: float = 1.0,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        if separate_heads(teacher):
            # In evaluation such a network averages its heads, so the top module alone says that it trains. All its layers are in
            # evaluation mode, and its own forward asks for the mode only where it chooses between the heads and their mean.
            teacher.training = True
        self._temperature = temperature
        self._soft_weight, self._hard_weight = soft_weight, hard_weight
        self._precision = precision

    def teach(self, images: Tensor) -> Tensor:
        """Return the teacher's logits.

        Args:
            images: What the student sees, mixed and augmented, (N, C, H, W).

        Returns:
            Of its class head, (N, classes), without gradient.
        """
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            logits = Heads.of(self.teacher(images)).for_loss().classes
        return logits.clone()  # autograd saves no tensor that was made in inference mode

    def loss(self, heads: Heads, teacher_logits: Tensor, hard: Tensor) -> Tensor:
        """Join both losses.

        Args:
            heads: The student's logits.
            teacher_logits: What `teach` gave for the same images.
            hard: The loss of the student's class head against the labels.

        Returns:
            The weighted sum; the soft part is that of the student's distillation head.
        """
        soft = soft_cross_entropy(heads.distillation, teacher_logits, self._temperature)
        return self._soft_weight * soft + self._hard_weight * hard
