"""Rounding estimators: how the gradient passes a rounding. All round half to even in the forward pass but `Stochastic`.

With `t` the position that is rounded and `h` the gradient that arrives at the rounded position, the gradient to `t` is
`factor(t, h) * h` (docs/spec/cnn.md, 1.4):

    STE              1                                                     Bengio et al., arXiv 1308.3432
    EWGS             1 + factor * sign(h) * (t - round(t))                 Lee et al., arXiv 2104.00903, eq. 5
    StackedSigmoid   slope of a sigmoid centred on each rounding boundary  Gong et al. (DSQ), arXiv 1908.05033
    Stochastic       1; rounds up with probability t - floor(t)            Gupta et al., arXiv 1502.02551
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stillbit.errors import RecipeError


class Rounding(ABC):
    """A rounding estimator: a value object, safe to share and to compare."""

    @abstractmethod
    def factor(self, t: Tensor, h: Tensor) -> Tensor | float:
        """Return the factor on the gradient.

        Args:
            t: Position before rounding, any shape.
            h: Gradient that arrives at the rounded position, same shape; only its sign is used.
        """


@dataclass(frozen=True)
class STE(Rounding):
    """The straight-through estimator: rounding is the identity for the gradient."""

    def factor(self, t: Tensor, h: Tensor) -> float:
        """Return 1."""
        del t, h
        return 1.0


@dataclass(frozen=True)
class EWGS(Rounding):
    """Element-wise gradient scaling: larger steps towards the grid point, smaller ones away from it.

    Attributes:
        scaling: Strength, 0 or more; 0 is `STE`.
    """

    scaling: float = 0.2

    def __post_init__(self) -> None:
        """Refuse a negative strength, which would turn the idea round."""
        if not self.scaling >= 0:
            raise RecipeError(f"EWGS scaling is {self.scaling}; it must be 0 or more")

    def factor(self, t: Tensor, h: Tensor) -> Tensor:
        """Return `1 + scaling * sign(h) * (t - round(t))`."""
        return 1.0 + self.scaling * torch.sign(h) * (t - torch.round(t))


@dataclass(frozen=True)
class StackedSigmoid(Rounding):
    """The slope of a staircase of sigmoids, normalized so that each stair rises by one.

    Attributes:
        sharpness: Steepness of each sigmoid, positive; towards 0 it becomes `STE`.
    """

    sharpness: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a sharpness that is not positive."""
        if not self.sharpness > 0:
            raise RecipeError(f"StackedSigmoid sharpness is {self.sharpness}; it must be positive")

    def factor(self, t: Tensor, h: Tensor) -> Tensor:
        """Return the slope at `t`: largest where the rounding decides, always positive."""
        del h
        from_boundary = t - torch.floor(t) - 0.5
        sigmoid = torch.sigmoid(-self.sharpness * from_boundary)
        rise = 2.0 / (1.0 + math.exp(-self.sharpness / 2)) - 1.0
        return self.sharpness * sigmoid * (1.0 - sigmoid) / rise


@dataclass(frozen=True)
class Stochastic(Rounding):
    """Rounds up with a probability equal to the fraction while training, half to even in evaluation."""

    def factor(self, t: Tensor, h: Tensor) -> float:
        """Return 1."""
        del t, h
        return 1.0


RoundingName = Literal["ste", "ewgs", "stacked_sigmoid", "stochastic"]
ROUNDINGS: dict[RoundingName, type[Rounding]] = {
    "ste": STE,
    "ewgs": EWGS,
    "stacked_sigmoid": StackedSigmoid,
    "stochastic": Stochastic,
}
