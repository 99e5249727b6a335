"""Annealing: in the last epochs only those weights move that stand near a rounding boundary; all others, whose codes are certain, rest.

    free      latent at most `boundary_range` grid steps from a boundary     gets its gradient and its update
    frozen    all others, clipped ones included                              gradient 0; after the step exactly what it was before

Which are free is decided again at every step: free weights move, with them the scale (StatsQ), and with it the boundaries.

Source: confidence-guided annealing of "Oscillation-free Quantization for Low-bit Vision Transformers" (ICML 2023, arXiv 2302.02210).
Deviates from its reference code in: boundaries count whether or not a code beyond them occurs; products of query and key weights are
gated too, in their gradient, for no choice of the two weights holds single entries of a product (there they are not gated, against the
intention); frozen weights rest under mixed precision too; a frozen weight survives an update that is not finite. `published=True`
restores the reference in the first two.

The gate acts in the quantizer's forward pass: gradients are gated before they are accumulated, unscaled or clipped. What other methods
add just before the step (dampening) still reaches the optimizer's moments of a frozen weight, as coupled weight decay does; the weight
itself is put back.
"""

from typing import Annotated, Any, ClassVar, NamedTuple, final

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.numerics.gate import Gate
from stillbit.options import Bits, Count, checked
from stillbit.oscillation.method import Method, whole_share
from stillbit.quantizers import WeightSite, weight_sites
from stillbit.quantizers.site import trains


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

    order: ClassVar[int] = 20

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        begin: Count = 1,
        boundary_range: Annotated[float, Ge(0.0), Le(0.5)] = 0.005,
        max_bits: Bits = 4,
        published: bool = False,
    ) -> None:
        super().__init__(model)
        self.gate = Gate(boundary_range, published)
        self.begin = begin
        self.max_bits = max_bits
        self._resting: dict[str, _Resting] = {}  # between the hooks of one step
        if not self._gated():
            raise PrepareError(f"Annealing: the model has no weight of at most {max_bits} bits that can be held; raise max_bits")

    def start(self) -> None:
        """Set the gates, if the coming step is one at which it acts."""
        self._set_gates()

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Remember the weights that shall rest, except derived ones, whose gradient alone is gated."""
        if step < self.begin:
            return
        for site in self._gated():
            if site.writable and trains(site):
                latent = site.latent().detach()
                self._resting[site.name] = _Resting(~site.quantizer.free(latent), latent.clone())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Put the resting weights back, to the bit, and sets the gates for the next forward pass."""
        for site in self._gated():
            if site.name in self._resting:
                site.write(*self._resting.pop(site.name))
        if step + 1 == self.begin:
            self._set_gates()

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Return `free`, the share of gated weights that are free now; all are before it acts."""
        return {"free": whole_share(self._free())}

    @torch.no_grad()
    def masks(self) -> dict[str, dict[str, Tensor]]:
        """Return `free`, of the gated weights."""
        return {"free": self._free()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned: the step, from which all else follows."""
        super().load_state_dict(state)
        self._set_gates()

    def _set_gates(self) -> None:
        acts = self.step + 1 >= self.begin
        for site in self._gated():
            site.quantizer.prologue = site.quantizer.prologue._replace(gate=self.gate if acts else None)

    def _gated(self) -> list[WeightSite]:
        sites = (site for site in weight_sites(self.model) if site.quantizer.bits <= self.max_bits)
        return [site for site in sites if site.writable or not self.gate.published]

    def _free(self) -> dict[str, Tensor]:
        return {site.name: site.quantizer.free(site.latent()) for site in self._gated()}
