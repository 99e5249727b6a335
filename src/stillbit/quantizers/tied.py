"""A quantizer that is another one: the grid of a tensor, used again where the same tensor was pooled."""

from torch import Tensor, nn

from stillbit.quantizers.base import Quantizer


class TiedQuantizer(nn.Module):
    """Quantizes by the grid of another quantizer, which alone holds the state.

    The source is not a child of this module: its state is stored once, under its own name, and an optimizer meets its scale once.
    Whoever copies or pickles the whole model copies both, and the tie holds in the copy. Calibration and coverage watch the calls of
    the source; a call of this module is none.

    Args:
        source: The quantizer whose grid holds here too.
    """

    def __init__(self, source: Quantizer) -> None:
        super().__init__()
        self._source = (source,)  # a module in a tuple is not registered

    @property
    def source(self) -> Quantizer:
        """The quantizer that holds the state."""
        return self._source[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of the codes of `x` on the source's grid. Passes by the source's hooks."""
        return self._source[0].forward(x)

    def extra_repr(self) -> str:
        """Show the name of the source."""
        return f"source={self.source.label}"
