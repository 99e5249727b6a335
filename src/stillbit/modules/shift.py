"""Learned biases round an activation quantizer.

Source: the "move" parameters of the released code of "Oscillation-free Quantization for Low-bit Vision Transformers" (ICML 2023,
arXiv 2302.02210). Deviates from it in: a bias that provably changes nothing (docs/methods/qkr.md) is not created.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from stillbit.errors import PrepareError
from stillbit.quantizers.base import Quantizer


@final
class Shifted(nn.Module):
    """Return `quantizer(x + before) + after`: an asymmetric grid whose two offsets are learned apart from each other.

    Args:
        quantizer: The activation quantizer.
        before: Shape of the bias in front of it, which broadcasts against the input, e.g. (192,), one per channel; None: no bias.
        after: Shape of the bias behind it; None: no bias.

    Attributes:
        before: Parameter, zero at first, or None.
        after: Likewise.

    Raises:
        PrepareError: In use, for an input that a bias does not fit.

    Examples:
        >>> from stillbit.quantizers import LSQ
        >>> shifted = Shifted(LSQ(4), before=(3,), after=None)
        >>> [name for name, _ in shifted.named_parameters()]
        ['before', 'quantizer.scale']
    """

    before: Parameter | None
    after: Parameter | None

    def __init__(self, quantizer: Quantizer, before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.register_parameter("before", None if before is None else Parameter(torch.zeros(before)))
        self.register_parameter("after", None if after is None else Parameter(torch.zeros(after)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the shifted values of the codes of the shifted `x`, in the dtype of `x`."""
        self._require_fit(x)
        shifted: Tensor = self.quantizer(x, self.before, self.after)
        return shifted.to(x.dtype)

    def _require_fit(self, x: Tensor) -> None:
        for bias in (self.before, self.after):
            if bias is not None and not _broadcasts(bias.shape, x.shape):
                fitting = ", ".join("*" if size == 1 else str(size) for size in bias.shape)
                raise PrepareError(
                    f"quantizer {self.quantizer.label} has shifts for inputs that end in ({fitting}) and was given {tuple(x.shape)}; "
                    "one shift a pixel serves one image size, allowed: that size, or activation_scales 'tensor'"
                )


def _broadcasts(shape: torch.Size, whole: torch.Size) -> bool:
    extra = len(whole) - len(shape)
    # Not `zip` of both reversed, of unequal lengths: torch 2.9 cannot trace that.
    return extra >= 0 and all(size == 1 or size == given for size, given in zip(shape, whole[extra:], strict=True))
