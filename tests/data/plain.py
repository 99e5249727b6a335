"""The published arithmetic in plain torch: chains of elementary operations, differentiated by autograd (docs/spec/cnn.md, 1, 3 and 4).

A second opinion on the library: nothing here is imported from it, nothing is fused, and no gradient but the rounding's is written by hand.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-8


class _Round(torch.autograd.Function):
    """Rounds half to even; multiplies the gradient by the factor of the estimator (docs/spec/cnn.md, 1.4)."""

    @staticmethod
    def forward(ctx, t: Tensor, rounding: str, argument: float | None) -> Tensor:
        ctx.save_for_backward(t)
        ctx.rounding, ctx.argument = rounding, argument
        return torch.round(t)

    @staticmethod
    def backward(ctx, h: Tensor) -> tuple[Tensor, None, None]:
        (t,) = ctx.saved_tensors
        if ctx.rounding == "ewgs":
            h = h * (1 + ctx.argument * torch.sign(h) * (t - torch.round(t)))
        elif ctx.rounding == "stacked_sigmoid":
            alpha = torch.tensor(ctx.argument, dtype=t.dtype)
            sigmoid = torch.sigmoid(-alpha * (t - torch.floor(t) - 0.5))
            h = h * alpha * sigmoid * (1 - sigmoid) / (2 * torch.sigmoid(alpha / 2) - 1)
        return h, None, None


@dataclass(frozen=True)
class PlainGrid:
    """A uniform grid of the published quantizers; `delta` and `zeta` are its stored parameters, `zeta` only if asymmetric."""

    bits: int
    symmetric: bool = True
    signed: bool | None = True
    log: bool = False
    rounding: str = "ste"
    argument: float | None = None
    gradient_scaling: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        if self.symmetric and self.signed:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1

    def initial(self, x_min: Tensor, x_max: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return delta and zeta of a range (docs/spec/cnn.md, 1.2)."""
        low, high = x_min.clamp(max=0), x_max.clamp(min=EPS)
        top = self.limits[1]
        if self.symmetric:
            delta, zeta = torch.maximum(low.abs(), high) / top, None
        else:
            delta = (high - low) / top
            zeta = -low / delta
        return (delta.log() if self.log else delta), zeta

    def scale(self, delta: Tensor) -> Tensor:
        return delta.exp() if self.log else delta.clamp(min=EPS)

    def zero_point(self, zeta: Tensor | None) -> Tensor | int:
        if zeta is None:
            return 0
        return _clip(_Round.apply(zeta, self.rounding, self.argument), self.limits)

    def ends(self, delta: Tensor, zeta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale, zero = self.scale(delta), self.zero_point(zeta)
        return scale * (self.limits[0] - zero), scale * (self.limits[1] - zero)

    def quantize(self, x: Tensor, delta: Tensor, zeta: Tensor | None = None, pins: "Pins | None" = None) -> tuple[Tensor, Tensor]:
        """Return codes and values. The zero point is evaluated twice, as in the published code: under EWGS the gradients differ."""
        count = x.numel() // (len(x) if delta.numel() > 1 else 1)
        gamma = (self.limits[1] * count) ** -0.5 if self.gradient_scaling else 1.0
        scale = _scaled_gradient(self.scale(delta), gamma)
        for_code, for_value = (_scaled_gradient(self.zero_point(zeta), gamma) for _ in range(2))
        code = _clip(_Round.apply(x / scale, self.rounding, self.argument) + for_code, self.limits)
        if pins is not None:
            code = torch.where(pins.frozen, pins.codes, code)
        return code, scale * (code - for_value)


def _clip(v: Tensor, limits: tuple[int, int]) -> Tensor:
    """Clips; the gradient passes on the limits too, where torch's own clamp passes it in some versions only."""
    low, high = limits
    return torch.where((v >= low) & (v <= high), v, v.detach().clamp(low, high))


def _scaled_gradient(t: Tensor | int, gamma: float) -> Tensor | int:
    if gamma != 1.0 and isinstance(t, Tensor) and t.requires_grad:
        t.register_hook(lambda gradient: gradient * gamma)
    return t


@dataclass
class Pins:
    """Which weights are frozen, and at which codes."""

    frozen: Tensor
    codes: Tensor


class PlainTracker:
    """The published tracker of one weight, step by step as docs/spec/cnn.md, 3 numbers them."""

    def __init__(self, momentum: float, *, use_ema: bool = True) -> None:
        self.momentum, self.use_ema = momentum, use_ema
        self.previous: Tensor | None = None
        self.pins: Pins | None = None
        self.average: Tensor | None = None

    def update(self, x: Tensor, threshold: float) -> None:
        """Take the codes of a forward pass, pins included."""
        x, m = x.detach(), self.momentum
        if self.previous is None:
            self.previous = x.clone()
            self.direction, self.frequency, self.total = (torch.zeros_like(x) for _ in range(3))
        if threshold > 0 and self.pins is None:
            self.pins = Pins(torch.zeros_like(x, dtype=torch.bool), torch.zeros_like(x))
            self.average = x.clone()
        direction = torch.sign(torch.round(self.previous - x))
        oscillated = self.direction * direction == -1
        self.frequency = m * oscillated + (1 - m) * self.frequency
        self.direction = torch.where(direction != 0, direction, self.direction)
        self.previous = x.clone()
        self.total = self.total + oscillated
        self.oscillated = int(oscillated.sum())
        if threshold > 0:
            self._freeze(x, self.frequency > threshold)

    def _freeze(self, x: Tensor, chosen: Tensor) -> None:
        target = torch.round(self.average) if self.use_ema else x
        self.pins = Pins(self.pins.frozen | chosen, torch.where(chosen, target, self.pins.codes))
        self.average = self.momentum * x + (1 - self.momentum) * self.average


def dampening(w: Tensor, grid: PlainGrid, delta: Tensor, zeta: Tensor | None = None, pins: Pins | None = None) -> tuple[Tensor, Tensor]:
    """Return the elementwise dampening loss, differentiable, and its target (docs/spec/cnn.md, 4)."""
    target = grid.quantize(w, delta, zeta, pins)[1].detach()
    low, high = grid.ends(delta, zeta)
    return (target - torch.minimum(torch.maximum(w, low), high)) ** 2, target


def aggregate(losses: Tensor, how: str) -> Tensor:
    if how == "sum":
        return losses.sum()
    return losses.mean() if how == "mean" else losses.sum(0).mean()


def cosine(step: float, steps: int, start: float, end: float, begin: float) -> float:
    """Return the published annealing (docs/spec/cnn.md, 6), which turns back after the last step."""
    first = begin * steps
    phase = torch.pi * (step - first) / (steps - first)
    return start if step < first else end + 0.5 * (start - end) * (1 + float(torch.cos(torch.tensor(phase, dtype=torch.float64))))
