"""A grid fixed by calibration: nothing about it is learned."""

from typing import final

import torch
from torch import Tensor

from stillbit.numerics.grid import Grid
from stillbit.numerics.limits import SCALE_FLOOR, compute_dtype
from stillbit.numerics.ranges import RangeConfig
from stillbit.numerics.rounding import Rounding
from stillbit.quantizers.base import Quantizer


@final
class FixedRange(Quantizer):
    """A grid whose scale and zero point stay as calibration set them (min-max, MSE).

    Args:
        bits: Width of the codes, 2 to 8; 1 for unsigned grids only.
        scale_shape: Shape of the scale: (1,) for one per tensor, e.g. (64, 1, 1, 1) for one per output channel of a conv weight.
        symmetric: Whether zero has code 0.
        rounding: How the gradient passes the rounding.
        range_config: How `calibrate` finds its range.
        recompute: Whether layers compute its values again for backward.

    Attributes:
        scale: Buffer, `scale_shape`.
        zero_point: Buffer, `scale_shape`, integer-valued; None on symmetric grids.
    """

    scale: Tensor
    zero_point: Tensor | None

    def __init__(
        self,
        bits: int,
        scale_shape: tuple[int, ...] = (1,),
        *,
        symmetric: bool = True,
        rounding: Rounding | None = None,
        range_config: RangeConfig | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__(bits, scale_shape, rounding=rounding, range_config=range_config, recompute=recompute)
        self.symmetric = symmetric
        self.register_buffer("scale", torch.ones(scale_shape))
        self.register_buffer("zero_point", None if symmetric else torch.zeros(scale_shape))

    def grid(self, x: Tensor) -> Grid:
        """Return the calibrated grid, whatever `x` is."""
        del x
        scale = self.scale.to(compute_dtype(self.scale)).clamp(min=SCALE_FLOOR)
        return Grid(scale, 0 if self.zero_point is None else self.zero_point, 0.0, *self.limits)

    @torch.no_grad()
    def set_range(self, x_min: Tensor | float, x_max: Tensor | float) -> None:
        """Set scale, zero point and sign from a range of latents (docs/spec/cnn.md, 1.2)."""
        fitted = self._fit(x_min, x_max, symmetric=self.symmetric)
        self.scale.copy_(fitted.scale)
        if self.zero_point is not None:
            self.zero_point.copy_(fitted.zero_point.round().clamp(*self.limits))
        self.mark_calibrated(signed=fitted.signed)
