"""Tracking: how often each weight flips to and fro between codes.

Source: "Overcoming Oscillations in Quantization-Aware Training" (ICML 2022, arXiv 2203.11086), section 4.1.
Deviates from its reference code in: codes are compared once per optimizer step, never in a forward pass and never in evaluation; state
is saved; the first codes are those at `attach`.
"""

from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError
from stillbit.numerics.fast import Part, part, run_pass
from stillbit.numerics.limits import FREE
from stillbit.options import Bits, Count, Portion, checked
from stillbit.oscillation.history import Advanced, History, Momentum, Pinning, advance
from stillbit.oscillation.method import Method, whole_share
from stillbit.oscillation.windows import momentum_for, warn_if_short
from stillbit.quantizers import WeightSite, weight_sites
from stillbit.quantizers.site import trains

OSCILLATING_ABOVE = 0.005  # the frequency from which the paper counts a weight as oscillating (table 4)


@final
class Tracker:
    """The histories of a model's low-bit weights. `Tracking` and `Freezing` each own one.

    Args:
        model: A prepared model.
        ema_momentum: Weight of the present step in the frequencies, above 0, at most 1.
        max_bits: Weights with more bits are not tracked.
        oscillating_above: A free weight with a higher frequency counts as oscillating.
        totals: Whether the oscillations of each weight are counted.

    Attributes:
        histories: By name of the site.
    """

    def __init__(self, model: nn.Module, *, ema_momentum: float, max_bits: int, oscillating_above: float, totals: bool = False) -> None:
        self.model = model
        self.ema_momentum = ema_momentum
        self.max_bits = max_bits
        self.oscillating_above = oscillating_above
        self.totals = totals
        self.histories: dict[str, History] = {}

    def sites(self) -> list[WeightSite]:
        """Return the sites that are tracked, found afresh."""
        return [site for site in weight_sites(self.model) if site.quantizer.bits <= self.max_bits]

    def begin(self, *, averages: bool = False) -> None:
        """Begin the histories, and where asked for the averages, that have not begun, at the codes of now."""
        for site in self.sites():
            self._history(site, site.latent(), averages=averages)

    def update(self, threshold: float | None = None, *, averages: bool = False, pinning: Pinning | None = None) -> None:
        """Take one more step into all histories, in one pass over the weights; a first step begins them.

        Args:
            threshold: Frequency above which a weight is pinned; 0 or less: none is.
            averages: Whether to take the step into the averages of the codes, and to pin to these.
            pinning: How to pin; None: not at all.
        """
        limit = None
        if threshold is not None:
            # Made on the CPU to stay there: kernels take it for a number, and no transfer waits for an accelerator.
            limit = torch.full((), threshold if threshold > 0.0 else float("inf"), dtype=torch.float64)
        for sites, how in _held_apart(self.sites(), pinning):
            parts = (self._part(site, averages, how) for site in sites)
            run_pass(advance, parts, Momentum.of(self.ema_momentum), limit, how)

    @torch.no_grad()
    def _history(self, site: WeightSite, latent: Tensor, *, averages: bool) -> History:
        history = self.histories.get(site.name)
        if history is None or (averages and history.average_code is None):
            code = site.quantizer.code(latent)
            history = history or History.starting_at(code, site.quantizer.limits, totals=self.totals)
            history.average_code = code if averages else None
            self.histories[site.name] = history
        return history

    @torch.no_grad()
    def _part(self, site: WeightSite, averages: bool, pinning: Pinning | None) -> Part:
        latent = site.latent()
        history = self._history(site, latent, averages=averages)
        average = history.average_code if averages else None
        state = history.previous, history.direction, history.frequency, history.total, average
        num_changed = len(state) if pinning is None else len(state) + 1 + pinning.hold
        return part(Advanced(*state, site.quantizer.pins, latent), num_changed, site.quantizer.grid(latent))

    def oscillating(self) -> dict[str, Tensor]:
        """Return by site which weights oscillate: free ones whose frequency is above the limit. A pinned weight cannot."""
        return {name: frequency > self.oscillating_above for name, frequency in self.frequencies().items()}

    def frequencies(self) -> dict[str, Tensor]:
        """Return by site how often each weight oscillates; 0 for a pinned one, which cannot."""
        found = {}
        for site in self.sites():
            if site.name in self.histories:
                frequency, pins = self.histories[site.name].frequency, site.quantizer.pins
                found[site.name] = frequency if pins is None else torch.where(pins == FREE, frequency, 0.0)
        return found

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the histories as tensors, by site, as references."""
        return {name: history.state_dict() for name, history in self.histories.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take up what `state_dict` returned: of every tracked site, or of none (not begun).

        Args:
            state: Tensors by name, by site.

        Raises:
            CheckpointError: If it does not fit; the message names the site.
        """
        sites = {site.name: site for site in self.sites()}
        for name in sites.keys() ^ state.keys() if state else ():
            known = "the model does not track it" if name in state else "the state lacks it"
            raise CheckpointError(f"oscillation state of {name}: {known}; allowed: a state of the same model and max_bits")
        self.histories = {name: History.restored(state[name], site, totals=self.totals) for name, site in sites.items() if state}


@final
class Tracking(Method):
    """Watches, and changes nothing.

    Args:
        model: A prepared model.
        steps: Optimizer steps of the run; None: not known.
        ema_momentum: Weight of the present step in the frequencies; None: it follows from the steps (`stillbit.oscillation.windows`),
            0.01 where they are not known.
        max_bits: Weights with more bits are not tracked; 8-bit first and last layers hardly oscillate.
        oscillating_above: A weight with a higher frequency counts as oscillating.
        totals: Whether to count the oscillations of each weight, for 4 bytes per weight.

    Attributes:
        tracker: The histories.

    Raises:
        RecipeError: If a value is out of range.
    """

    order: ClassVar[int] = 40
    watches_only: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Count | None = None,
        ema_momentum: Portion | None = None,
        max_bits: Bits = 4,
        oscillating_above: float = OSCILLATING_ABOVE,
        totals: bool = False,
    ) -> None:
        super().__init__(model)
        self.run_steps = steps
        momentum = momentum_for(steps) if ema_momentum is None else ema_momentum
        warn_if_short("Tracking", momentum, steps)
        self.tracker = Tracker(model, ema_momentum=momentum, max_bits=max_bits, oscillating_above=oscillating_above, totals=totals)

    def start(self) -> None:
        """Begin the histories at the codes of now."""
        self.tracker.begin()

    def after_step(self, step: int) -> None:
        """Take the step's codes into the histories."""
        del step
        self.tracker.update()

    def metrics(self) -> dict[str, float]:
        """Return `oscillating`, the share of tracked weights that oscillate."""
        return {"oscillating": whole_share(self.tracker.oscillating())}

    def masks(self) -> dict[str, dict[str, Tensor]]:
        """Return `oscillating`."""
        return {"oscillating": self.tracker.oscillating()}

    def frequencies(self) -> dict[str, Tensor]:
        """Return those of the histories."""
        return self.tracker.frequencies()

    def state_dict(self) -> dict[str, Any]:
        """Return step and histories."""
        return {**super().state_dict(), "sites": self.tracker.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.tracker.load_state_dict(state.get("sites", {}))
        super().load_state_dict(state)


def _held_apart(sites: list[WeightSite], pinning: Pinning | None) -> list[tuple[list[WeightSite], Pinning | None]]:
    """Take out of what is pinned the weights that do not train, and of what is held the latents that a grid follows from (StatsQ).

    The grid would move with what is written there, and what is written with it, without end.
    """
    if pinning is None:
        return [(sites, None)]
    resting = [site for site in sites if not trains(site)]
    trained = [site for site in sites if trains(site)]
    if not pinning.hold:
        return [(resting, None), (trained, pinning)]
    following = [site for site in trained if site.quantizer.grid_follows_latent]
    fixed = [site for site in trained if not site.quantizer.grid_follows_latent]
    return [(resting, None), (following, pinning._replace(hold=False)), (fixed, pinning)]
