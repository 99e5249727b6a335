"""LSQ: learned step size quantization (Esser et al., arXiv 1902.08153), and LSQ+ (arXiv 2004.09576) for the asymmetric form.

Deviates from the papers in: the default ste_range passes the gradient half a step further out than LSQ does (ste_range="position" is the
paper's), and the gradient of the scale is not rescaled unless asked for. Both are the choices of the oscillation paper
(arXiv 2203.11086), whose results this library reproduces.
"""

from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from stillbit.numerics.grid import Grid
from stillbit.numerics.kernels import STERange
from stillbit.numerics.limits import SCALE_FLOOR, compute_dtype
from stillbit.numerics.ranges import RangeConfig
from stillbit.numerics.rounding import Rounding
from stillbit.options import check
from stillbit.quantizers.base import Quantizer

ScaleGradient = Literal["none", "lsq"]
_PUBLISHED_POSITION_FLOOR = torch.tensor(1e-5).item()  # a float32 constant there, in float64 models too


@final
class LSQ(Quantizer):
    """A grid whose scale (and zero point) are learned.

    Args:
        bits: Width of the codes, 2 to 8; 1 for unsigned grids only.
        scale_shape: Shape of the scale: (1,) for one per tensor, e.g. (64, 1, 1, 1) for one per output channel of a conv weight.
        symmetric: Whether zero has code 0. Otherwise a zero point is learned, and rounded.
        rounding: How the gradient passes the rounding.
        ste_range: "rounded" (as published for CNNs), "position" (as in the LSQ paper).
        log_scale: Whether the parameter holds the logarithm of the scale.
        scale_gradient: "none", or "lsq": multiply the gradients of scale and zero point by `(high * n) ** -0.5`, n being the number
            of latents that share a scale (the batch of this process included).
        published: Do what the published code does where it differs. With STE range "rounded" that is the CNN code: a scale below its
            floor gets no gradient, ever, and the zero point's gradient counts its two uses apart, which matters under EWGS
            (docs/spec/cnn.md, 1.5). With STE range "position" it is the ViT code (docs/spec/vit.md, 2.1): the floor is 1e-5.
        range_config: How `calibrate` finds its range.
        recompute: Whether layers compute its values again for backward.

    Attributes:
        scale: Parameter, `scale_shape`; the linear scale, or its logarithm.
        zero_point: Parameter, `scale_shape`, not rounded; None on symmetric grids.
    """

    def __init__(
        self,
        bits: int,
        scale_shape: tuple[int, ...] = (1,),
        *,
        symmetric: bool = True,
        rounding: Rounding | None = None,
        ste_range: STERange = "rounded",
        log_scale: bool = False,
        scale_gradient: ScaleGradient = "none",
        published: bool = False,
        range_config: RangeConfig | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__(bits, scale_shape, rounding=rounding, ste_range=ste_range, range_config=range_config, recompute=recompute)
        check("scale_gradient", scale_gradient, ScaleGradient)
        self.symmetric = symmetric
        self.log_scale = log_scale
        self.scale_gradient = scale_gradient
        self.published = published
        self.scale = nn.Parameter(torch.zeros(scale_shape) if log_scale else torch.ones(scale_shape))
        self.zero_point = None if symmetric else nn.Parameter(torch.zeros(scale_shape))

    def grid(self, x: Tensor) -> Grid:
        """Return the grid of the learned scale and zero point, whatever `x` is."""
        del x
        low, high = self.limits
        scale = self._effective_scale()
        if self.zero_point is None:
            return Grid(scale, 0, 0.0, low, high)
        return Grid(scale, self._rounded_zero_point(self.zero_point), 0.0, low, high)

    def value_zero_point(self) -> Tensor | None:
        """Return a second evaluation of the zero point where the published gradient needs one."""
        return self._rounded_zero_point(self.zero_point) if self.published and self.zero_point is not None else None

    def scale_gradient_factor(self, x: Tensor) -> float:
        """Return `(high * n) ** -0.5`, or 1."""
        if self.scale_gradient == "none" or x.numel() == 0:
            return 1.0
        return float((self.limits[1] * x.numel() / self.scale.numel()) ** -0.5)

    @torch.no_grad()
    def set_range(self, x_min: Tensor | float, x_max: Tensor | float) -> None:
        """Set scale, zero point and sign from a range of latents (docs/spec/cnn.md, 1.2)."""
        fitted = self._fit(x_min, x_max, symmetric=self.symmetric)
        self.scale.copy_(fitted.scale.log() if self.log_scale else fitted.scale)
        if self.zero_point is not None:
            self.zero_point.copy_(fitted.zero_point)
        self.mark_calibrated(signed=fitted.signed)

    @torch.no_grad()
    def lift_scale(self) -> None:
        """Lift a trained scale below its floor to it. Forward does so anyway; this keeps the parameter from drifting further."""
        if self.scale.requires_grad and not self.log_scale and not self.published:
            self.scale.clamp_(min=SCALE_FLOOR)

    def _effective_scale(self) -> Tensor:
        scale = self.scale.to(compute_dtype(self.scale))  # the floor is 0 in float16
        if self.log_scale:
            return scale.exp()
        if self.published and self.ste_range == "rounded":
            return torch.where(scale < SCALE_FLOOR, SCALE_FLOOR, scale)  # clamp's gradient at the floor depends on the version of torch
        # The floored value, with the gradient straight through (the difference is exactly 0), so that a scale below can rise again.
        floor = _PUBLISHED_POSITION_FLOOR if self.published else SCALE_FLOOR
        return scale.detach().clamp(min=floor) + (scale - scale.detach())

    def _rounded_zero_point(self, zero_point: Tensor) -> Tensor:
        rounded: Tensor = _RoundZeroPoint.apply(zero_point, *self.limits, self.rounding)
        return rounded


class _RoundZeroPoint(torch.autograd.Function):
    """`clamp(round(zero_point), low, high)` with the gradient of the rounding estimator; none where it is clamped."""

    @staticmethod
    def forward(ctx: Any, zero_point: Tensor, low: int, high: int, rounding: Rounding) -> Tensor:
        ctx.save_for_backward(zero_point)
        ctx.options = low, high, rounding
        return zero_point.round().clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (zero_point,) = ctx.saved_tensors
        low, high, rounding = ctx.options
        rounded = zero_point.round()
        inside = (rounded >= low) & (rounded <= high)
        passed = torch.where(inside, gradient, 0.0)
        return rounding.factor(zero_point, passed) * passed, None, None, None
