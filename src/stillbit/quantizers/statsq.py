"""StatsQ: a scale that follows the weights, instead of one that is learned and oscillates with them.

    scale = 2 * mean|x| / 2^(b-1)        grid points at scale * (-2^(b-1) + 1/2, ..., 2^(b-1) - 1/2): zero is none of them

Source: "Oscillation-free Quantization for Low-bit Vision Transformers" (ICML 2023, arXiv 2302.02210).
Deviates from its reference code in: a row of zeros has a finite value (there NaN); values lie on the grid to the last bit (there an
output is now and then one rounding off it); 1 bit, whose clipped codes there leave the grid, is refused.
"""

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from stillbit.errors import RecipeError
from stillbit.numerics.fake_quantize import fake_quantize_by_mean
from stillbit.numerics.grid import Grid
from stillbit.numerics.kernels import scale_by_mean
from stillbit.numerics.rounding import STE, Rounding
from stillbit.quantizers.base import Quantizer


@final
class StatsQ(Quantizer):
    """A grid without zero whose scale is a statistic of the latent; all latents pass the gradient, clipped ones too.

    Nothing is learned and nothing calibrated: the scale is computed at every use, without gradient.

    Args:
        bits: Width of the codes, 2 to 8.
        scale_shape: Shape of the scale: (1,) for one per tensor, e.g. (64, 1) for one per output row of a linear weight. The statistic
            is taken over the axes where it is 1.
        rounding: How the gradient passes the rounding.
        recompute: Whether layers compute its values again for backward.

    Raises:
        RecipeError: If an argument is not allowed.
    """

    grid_follows_latent: ClassVar[bool] = True
    needs_range: ClassVar[bool] = False

    def __init__(self, bits: int, scale_shape: tuple[int, ...] = (1,), *, rounding: Rounding | None = None, recompute: bool = True) -> None:
        super().__init__(bits, scale_shape, rounding=rounding, ste_range="open", recompute=recompute)
        if bits == 1:
            raise RecipeError(f"bits is 1; allowed for StatsQ are whole numbers from 2 to {self.max_bits}")
        self.mark_calibrated(signed=True)

    @torch.no_grad()
    def grid(self, x: Tensor) -> Grid:
        """Return the grid of the latents of now (docs/spec/vit.md, 1)."""
        axes = [axis for axis in range(x.dim()) if math.prod(self.scale_shape) == 1 or self.scale_shape[axis] == 1]
        low, high = self.limits
        return Grid(scale_by_mean(x, tuple(axes), low).reshape(self.scale_shape), 0, 0.5, low, high)

    def set_range(self, x_min: Tensor | float, x_max: Tensor | float) -> None:
        """Mark the quantizer calibrated, which it always is: the latents alone decide the grid."""
        del x_min, x_max
        self.mark_calibrated(signed=True)

    def _values(self, x: Tensor, clip: tuple[float, float] | None, before: Tensor | None, after: Tensor | None) -> Tensor:
        if clip is None and before is None and after is None and isinstance(self.rounding, STE):
            return fake_quantize_by_mean(x, self.scale_shape, self.limits[0], pins=self.pins, recompute=self.recompute)
        return super()._values(x, clip, before, after)
