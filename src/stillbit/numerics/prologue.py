"""What latents go through before they meet a grid."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.numerics.gate import Gate


class Prologue(NamedTuple):
    """A folded activation, and a gate.

    Attributes:
        clip: Limits of the activation, (0, inf) of ReLU or (0, 6) of ReLU6: a latent on a limit or beyond gets no gradient.
        gate: Which latents get a gradient; None: all that the STE range lets pass.
    """

    clip: tuple[float, float] | None = None
    gate: Gate | None = None

    def latent(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return what is quantized: `x` behind the activation, plus a learned shift that broadcasts against it."""
        clipped = x if self.clip is None else F.hardtanh(x, *self.clip)
        return clipped if shift is None else clipped + shift


PLAIN = Prologue()
