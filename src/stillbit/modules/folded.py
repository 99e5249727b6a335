"""Activation functions that are folded into the quantizer behind them.

ReLU and ReLU6 clip, and so does a quantizer. Where every reader of an activation's output is a quantizer, these clip for it
(`Quantizer.clip`), in the pass over the tensor that they make anyway; the activation itself lets its input through. Codes, values and
gradients are the same to the bit; a forward and a backward pass over the tensor are saved.
"""

import math

from torch import Tensor, nn

from stillbit.modules.adopt import adopt


class FoldedReLU(nn.ReLU):
    """`nn.ReLU` that the quantizers behind it apply."""

    def forward(self, x: Tensor) -> Tensor:
        """Gives `x` as it is."""
        return x


class FoldedReLU6(nn.ReLU6):
    """`nn.ReLU6` that the quantizers behind it apply."""

    def forward(self, x: Tensor) -> Tensor:
        """Gives `x` as it is."""
        return x


_FOLDED: dict[type[nn.Module], tuple[type[nn.Module], tuple[float, float]]] = {
    nn.ReLU: (FoldedReLU, (0.0, math.inf)),
    nn.ReLU6: (FoldedReLU6, (0.0, 6.0)),
}


def clip_limits(activation: nn.Module) -> tuple[float, float] | None:
    """Gives the limits of an activation that can be folded; None for every other module, subclasses included.

    >>> clip_limits(nn.ReLU6())
    (0.0, 6.0)
    """
    entry = _FOLDED.get(type(activation))
    return None if entry is None else entry[1]


def folded(activation: nn.Module) -> nn.Module:
    """Makes the folded form of an activation that has `clip_limits`; children and hooks are carried over."""
    return adopt(_FOLDED[type(activation)][0], activation)
