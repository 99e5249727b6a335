"""Activation functions that are folded into the quantizer behind them.

ReLU and ReLU6 clip, and so does a quantizer. Where every reader of an activation's output is a quantizer, these clip for it
(`Quantizer.prologue`), in the pass over the tensor that they make anyway; the activation itself lets its input through. Codes, values and
gradients are the same to the bit; a forward and a backward pass over the tensor are saved.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn

from stillbit.modules.adopt import adopt


class FoldedReLU(nn.ReLU):
    """`nn.ReLU` that the quantizers behind it apply."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as it is."""
        return x


class FoldedReLU6(nn.ReLU6):
    """`nn.ReLU6` that the quantizers behind it apply."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as it is."""
        return x


class Foldable(NamedTuple):
    """What folding needs to know of an activation function.

    Attributes:
        kind: Its folded form.
        clip: Its limits.
        saves_input: Whether autograd saves its input next to its output, which the layer behind it saves: so it does for ReLU6, for
            it has no use for ReLU's.
    """

    kind: type[nn.Module]
    clip: tuple[float, float]
    saves_input: bool


_FOLDABLE = {
    nn.ReLU: Foldable(FoldedReLU, (0.0, math.inf), saves_input=False),
    nn.ReLU6: Foldable(FoldedReLU6, (0.0, 6.0), saves_input=True),
}


def foldable(activation: nn.Module) -> Foldable | None:
    """Return how an activation is folded; None for every other module, subclasses included.

    >>> foldable(nn.ReLU6()).clip
    (0.0, 6.0)
    """
    return _FOLDABLE.get(type(activation))


def folded(activation: nn.Module) -> nn.Module:
    """Make the folded form of an activation that is `foldable`; children and hooks are carried over."""
    return adopt(_FOLDABLE[type(activation)].kind, activation)
