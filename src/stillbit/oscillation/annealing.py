"""Annealing: in the last epochs only those weights move that stand near a rounding boundary; all others, whose codes are certain, rest.

    free      latent at most `boundary_range` grid steps from a boundary     gets its gradient and its update
    frozen    all others, clipped ones included                              gradient 0; after the step exactly what it was before

Which are free is decided anew at every step: free weights move, with them the scale (StatsQ), and with it the boundaries.

Source: confidence-guided annealing of "Oscillation-free Quantization for Low-bit Vision Transformers" (ICML 2023, arXiv 2302.02210).
Deviates from its reference code in: boundaries count whether or not a code beyond them occurs; products of query and key weights are
gated too, in their gradient, for no choice of the two weights holds single entries of a product (there they are not gated, against the
intention); frozen weights rest under mixed precision too; a frozen weight survives an update that is not finite. `published=True`
restores the reference in the first two.

The gate acts in the quantizer's forward pass: gradients are gated before they are accumulated, unscaled or clipped. What other methods
add just before the step (dampening) still reaches the optimizer's moments of a frozen weight, as coupled weight decay does; the weight
itself is put back.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError, RecipeError
from stillbit.numerics.gate import Gate
from stillbit.oscillation.method import Method, whole_share
from stillbit.quantizers import WeightSite, weight_sites


class _Resting(NamedTuple):
    frozen: Tensor
    latent: Tensor


@final
class Annealing(Method):
    """Lets only those weights move whose code is uncertain.

    Args:
        model: A prepared model.
        boundary_range: Largest distance from a rounding boundary at which a weight is free, in grid steps, 0 to 0.5.
        begin: The first optimizer step, counted from 1, at which it acts.
        max_bits: Weights with more bits move freely (8-bit first and last layers).
        published: Do as the reference code does, see above.

    Raises:
        PrepareError: If no weight has so few bits.
        RecipeError: If a value is out of range.
    """

    def __init__(
        self, model: nn.Module, *, boundary_range: float = 0.005, begin: int = 1, max_bits: int = 4, published: bool = False
    ) -> None:
        super().__init__(model)
        if begin < 1:
            raise RecipeError(f"begin is {begin}; allowed: an optimizer step, 1 or more")
        _check_max_bits(max_bits)
        self.gate = Gate(boundary_range, published)
        self.begin = begin
        self.max_bits = max_bits
        self._resting: dict[str, _Resting] = {}  # between the hooks of one step
        if not self._gated():
            raise PrepareError(f"Annealing: the model has no weight of at most {max_bits} bits that can be held; raise max_bits")

    def start(self) -> None:
        """Sets the gates, if the coming step is one at which it acts."""
        self._set_gates()

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Remembers the weights that shall rest, but for derived ones, whose gradient alone is gated."""
        if step < self.begin:
            return
        for site in self._gated():
            if site.writable:
                latent = site.latent().detach()
                self._resting[site.name] = _Resting(~site.quantizer.free(latent), latent.clone())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Puts the resting weights back, to the bit, and sets the gates for the next forward pass."""
        for site in self._gated():
            if site.name in self._resting:
                site.write(*self._resting.pop(site.name))
        if step + 1 == self.begin:
            self._set_gates()

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Gives `free`, the share of gated weights that are free now; all are before it acts."""
        return {"free": whole_share(self._free())}

    @torch.no_grad()
    def masks(self) -> dict[str, dict[str, Tensor]]:
        """Gives `free`, of the gated weights."""
        return {"free": self._free()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave: the step, of which all else follows."""
        super().load_state_dict(state)
        self._set_gates()

    def _set_gates(self) -> None:
        acts = self.step + 1 >= self.begin
        for site in self._gated():
            site.quantizer.gate = self.gate if acts else None

    def _gated(self) -> list[WeightSite]:
        sites = (site for site in weight_sites(self.model) if site.quantizer.bits <= self.max_bits)
        return [site for site in sites if site.writable or not self.gate.published]

    def _free(self) -> dict[str, Tensor]:
        return {site.name: site.quantizer.free(site.latent()) for site in self._gated()}


@dataclass(frozen=True)
class AnnealingConfig:
    """Annealing in a recipe: a last stage of training. The defaults are the published ones.

    Args:
        boundary_range: Largest distance from a rounding boundary at which a weight is free, in grid steps, 0 to 0.5.
        epochs: Length of the stage, after those of training, at least 1.
        lr: Learning rate of the stage, constant, above 0.
        max_bits: Weights with more bits move freely.
        published: Do as the reference code does where it differs (docs/methods/annealing.md).

    Raises:
        RecipeError: If a value is out of range.
    """

    boundary_range: float = 0.005
    epochs: int = 30
    lr: float = 1e-5
    max_bits: int = 4
    published: bool = False

    def __post_init__(self) -> None:
        Gate(self.boundary_range)
        _check_max_bits(self.max_bits)
        if self.epochs < 1:
            raise RecipeError(f"epochs is {self.epochs}; allowed: 1 or more")
        if not 0.0 < self.lr < float("inf"):
            raise RecipeError(f"lr is {self.lr}; allowed: a finite number above 0")

    def build(self, model: nn.Module, steps: int, *, begin: int) -> Annealing:
        """Makes the method for a run whose last stage begins at step `begin`; how many `steps` it has does not matter here."""
        del steps
        return Annealing(model, boundary_range=self.boundary_range, begin=begin, max_bits=self.max_bits, published=self.published)


def _check_max_bits(max_bits: int) -> None:
    if not 1 <= max_bits <= 8:
        raise RecipeError(f"max_bits is {max_bits}; allowed: 1 to 8")
