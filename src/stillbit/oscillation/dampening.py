"""Dampening: a pull of each latent towards the value of its code, so that it leaves the boundary where it would flip.

    loss = weight * sum over sites of aggregate((value - clip(latent, grid)) ** 2)          value: no gradient

Source: "Overcoming Oscillations in Quantization-Aware Training" (ICML 2022, arXiv 2203.11086), section 4.2, equation 5.
Deviates from its reference code in: the gradient is added in closed form before the optimizer steps, once per step, after clipping and
unscaling of the task's; `kernel_mean` finds the output channels of transposed convolutions. Neither changes a number of its own cases.
"""

from typing import ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from stillbit.errors import RecipeError
from stillbit.numerics import kernels
from stillbit.numerics.fast import Part, part, run_pass
from stillbit.numerics.grid import grid_limits, value
from stillbit.numerics.kernels import CanonicalGrid
from stillbit.numerics.limits import compute_dtype
from stillbit.options import Count, Fraction, Weight, checked
from stillbit.oscillation.method import Method
from stillbit.quantizers import WeightSite, weight_sites
from stillbit.quantizers.site import trains
from stillbit.schedules import Cosine, Schedule, as_schedule

AGGREGATIONS = ("sum", "mean", "kernel_mean")


@final
class Dampening(Method):
    """Pulls every quantized weight, 8-bit ones included, towards its value.

    Args:
        model: A prepared model.
        steps: Optimizer steps of the run; None: not known, then a weight that is a number stands from the first step to the last.
        weight: Factor of the loss term: a number, which holds until `begin`; or a schedule, for which the next two do not count.
        final_weight: The factor at the last step, reached along a cosine; None: `weight`.
        begin: Fraction of the steps at which the factor begins to move.
        aggregation: How a site's squared distances become one number: "sum", "mean", or "kernel_mean": summed over output channels,
            averaged over the rest.
        in_loss: The caller adds `penalty()` to the loss; `before_step` then adds nothing.

    Raises:
        RecipeError: If a value is out of range, or the aggregation is unknown.
    """

    order: ClassVar[int] = 10

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Count | None = None,
        weight: Weight | Schedule = 0.0,
        final_weight: Weight | None = 0.1,
        begin: Fraction = 0.25,
        aggregation: Literal["sum", "mean", "kernel_mean"] = "kernel_mean",
        in_loss: bool = False,
    ) -> None:
        if aggregation not in AGGREGATIONS:
            raise RecipeError(f"aggregation is {aggregation!r}; allowed: {', '.join(AGGREGATIONS)}")
        super().__init__(model)
        if isinstance(weight, int | float) and steps is not None:
            weight = Cosine(weight, weight if final_weight is None else final_weight, steps, begin=begin)
        self.weight = as_schedule(weight)
        self.aggregation = aggregation
        self.in_loss = in_loss

    def penalty(self, step: int | None = None) -> Tensor:
        """Return the loss term, differentiable, with the published gradients.

        The gradient to scales is zero, except of pinned latents outside the grid, whose clipped value moves with the scale.

        Args:
            step: The optimizer step that the loss is for, counted from 1; None: the coming one.

        Returns:
            One element.
        """
        losses = [self._site_loss(site) for site in weight_sites(self.model) if trains(site)]
        total = torch.stack(losses).sum() if losses else torch.zeros(())
        return total * self.weight(self.step + 1 if step is None else step)

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Add the loss term's gradient to that of the weights, unless the caller's loss holds it."""
        weight = self.weight(step)
        if self.in_loss or weight == 0.0:
            return
        trained = [site for site in weight_sites(self.model) if trains(site)]
        derived: list[tuple[WeightSite, Tensor]] = []
        run_pass(pull, (self._part(site, weight, derived) for site in trained))
        for site, gradient in derived:
            site.add_gradient(gradient)

    def _part(self, site: WeightSite, weight: float, derived: list[tuple[WeightSite, Tensor]]) -> Part:
        latent, quantizer = site.latent(), site.quantizer
        if site.writable:
            gradient = site.gradient()
        else:
            gradient = torch.zeros_like(latent)
            derived.append((site, gradient))
        factor = self.gradient_scale * (2.0 * weight * self._factor(site, latent))
        own = latent.new_empty(1, dtype=compute_dtype(latent))
        factors = own.copy_(factor) if isinstance(factor, Tensor) else own.fill_(factor)
        return part(Pulled(gradient, quantizer.pins, latent), 1, quantizer.grid(latent), factors)

    def metrics(self) -> dict[str, float]:
        """Return `dampening_weight` and `dampening_loss` (weight included) as of the last step."""
        last = max(self.step, 1)
        with torch.no_grad():
            return {"dampening_weight": float(self.weight(last)), "dampening_loss": float(self.penalty(last))}

    def _site_loss(self, site: WeightSite) -> Tensor:
        latent = site.latent()
        low, high = grid_limits(site.quantizer.grid(latent))
        clipped = torch.minimum(torch.maximum(latent, low), high)
        return (_target(site, latent) - clipped).square().sum() * self._factor(site, latent)

    def _factor(self, site: WeightSite, latent: Tensor) -> float:
        """Return what turns a sum over a site's elements into the aggregation."""
        if self.aggregation == "sum":
            return 1.0
        if self.aggregation == "mean":
            return 1.0 / latent.numel()
        return latent.shape[site.output_axis] / latent.numel()


class Pulled(NamedTuple):
    """The tensors of a weight that `pull` takes; it changes the first."""

    gradient: Tensor
    pins: Tensor | None
    latent: Tensor


def pull(weight: Pulled, grid: CanonicalGrid, factor: Tensor) -> tuple[()]:
    """Add `factor * inside * (latent - value)` to a gradient in place (numerics/fast/passes.py).

    `inside` is 1 inside the grid, 0 outside, and half of it on its limits.
    """
    gradient, pins, latent = weight
    (code,) = kernels.code(latent, grid, pins)
    lowest, highest, target = (kernels.value(one, grid) for one in (grid.low, grid.high, code))
    inside = 0.5 * (torch.sign(latent - lowest) + torch.sign(highest - latent))
    gradient.copy_(gradient + factor * (inside * (latent - target)))
    return ()


@torch.no_grad()
def _target(site: WeightSite, latent: Tensor) -> Tensor:
    """Return the values of a site's codes, pins included, without gradient."""
    return value(site.quantizer.code(latent), site.quantizer.grid(latent))
