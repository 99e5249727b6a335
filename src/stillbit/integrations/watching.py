"""Weights that another library quantizes, as sites that a method can watch.

The library computes positions in its own arithmetic; codes, the rounded positions, are then equal to its own to the bit, whatever it does
first (torchao multiplies by 1 / scale, Brevitas adds the zero point before rounding). What is watched is never written.
"""

from collections.abc import Callable
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from stillbit.errors import PrepareError
from stillbit.numerics.grid import Grid
from stillbit.quantizers import Quantizer, WeightSite, weight_sites
from stillbit.quantizers.site import unwrapped


class WeightReader(Protocol):
    """How one layer of another library quantizes its weight."""

    @property
    def bits(self) -> int:
        """Width of the codes, 1 to 8."""

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest code."""

    @property
    def parameter(self) -> Parameter:
        """The weight."""

    @property
    def output_axis(self) -> int:
        """The axis of the weight that counts output channels."""

    def position(self) -> Tensor:
        """Return what the library rounds, half to even, in the weight's shape, without gradient."""

    def offset(self) -> Tensor | None:
        """Return the integers that the library adds after rounding, in the weight's shape, as of the last `position`; None for none."""


@final
class WatchedQuantizer(Quantizer):
    """The grid of another library's quantizer, in its own units: a position's scale is 1.

    Args:
        reader: The layer.

    Raises:
        RecipeError: If the codes have more than 8 bits.
    """

    read_only: ClassVar[bool] = True

    def __init__(self, reader: WeightReader) -> None:
        super().__init__(reader.bits)
        self._reader = reader
        self.mark_calibrated(signed=reader.limits[0] < 0)

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest code, as the library has them."""
        return self._reader.limits

    def grid(self, x: Tensor) -> Grid:
        """Return the grid of scale 1."""
        offset = self._reader.offset()
        if offset is None:
            return Grid(x.new_ones(1), 0, 0.0, *self.limits)
        return Grid(torch.ones_like(x), offset, 0.0, *self.limits)

    def set_range(self, x_min: Tensor | float, x_max: Tensor | float) -> None:
        """Refuse.

        Raises:
            PrepareError: Always: the grid is the library's.
        """
        del x_min, x_max
        raise PrepareError("the range of a watched quantizer is its library's; allowed: to read it")


@final
class WatchedSite:
    """A weight that another library quantizes. Its latent is the position.

    Args:
        name: Name of the layer in its model.
        reader: The layer.
    """

    writable: ClassVar[bool] = False

    def __init__(self, name: str, reader: WeightReader) -> None:
        self.name = name
        self.quantizer: Quantizer = WatchedQuantizer(reader)
        self._reader = reader

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The weight."""
        return (self._reader.parameter,)

    @property
    def output_axis(self) -> int:
        """The axis that counts output channels."""
        return self._reader.output_axis

    @torch.no_grad()
    def latent(self) -> Tensor:
        """Return the positions, of the weight's shape, computed afresh."""
        return self._reader.position()

    def gradient(self) -> Tensor:
        """Refuse.

        Raises:
            PrepareError: Always.
        """
        raise PrepareError(f"site {self.name}: watched only; allowed: to read its latent")

    def add_gradient(self, gradient: Tensor) -> None:
        """Refuse.

        Raises:
            PrepareError: Always.
        """
        del gradient
        raise PrepareError(f"site {self.name}: watched only; allowed: to read its latent")

    def write(self, mask: Tensor, value: Tensor) -> None:
        """Refuse.

        Raises:
            PrepareError: Always.
        """
        del mask, value
        raise PrepareError(f"site {self.name}: watched only; allowed: to read its latent")


ReaderOf = Callable[[str, nn.Module], WeightReader | None]


@final
class Watched(nn.Module):
    """A model as `Tracking` sees it: its own sites, and those of another library. It has no parameters and no state, and is not called.

    Args:
        model: A model with layers of the library; they are looked for once, here.
        reader_of: Gives a layer's reader, or None for a layer that is not the library's; is told its name.
        library: Its name, for messages.

    Raises:
        PrepareError: If the library has no layer in it.
    """

    def __init__(self, model: nn.Module, reader_of: ReaderOf, library: str) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that its parameters are not found twice
        readers = ((name, reader_of(name, layer)) for name, layer in unwrapped(model).named_modules())
        self._sites = tuple(WatchedSite(name, reader) for name, reader in readers if reader is not None)
        if not self._sites:
            raise PrepareError(
                f"watched: the model has no integer weight of {library}, of at most 8 bits; quantize it with {library} first"
            )

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the sites, under the names of the model."""
        del name
        return (*weight_sites(self._model[0]), *self._sites)
