"""Iterative freezing: a weight that oscillates too often is held at the code where it spends most of its time.

Source: "Overcoming Oscillations in Quantization-Aware Training" (ICML 2022, arXiv 2203.11086), section 4.3, algorithm 1.
Deviates from its reference code in: a pinned weight stays at its code (there it may be pinned again while its frequency is high, and
may then toggle forever); the average of the codes begins with tracking, not when freezing does (there the first cohort is pinned to
its momentary code); pinned latents are rewritten to their value, so that what ignores pins (an export, an average of weights) computes
the same. `published=True` restores the reference in all three.
"""

import logging
from typing import Any, ClassVar, final

from torch import Tensor, nn

from stillbit.errors import CheckpointError, PrepareError
from stillbit.numerics.limits import FREE
from stillbit.options import Count, Fraction, PinnedBits, Portion, checked
from stillbit.oscillation.history import Pinning
from stillbit.oscillation.method import Method, whole_share
from stillbit.oscillation.tracking import OSCILLATING_ABOVE, Tracker
from stillbit.oscillation.windows import final_threshold_for, momentum_for, warn_if_short
from stillbit.quantizers import WeightSite
from stillbit.schedules import Cosine, Schedule, as_schedule

_log = logging.getLogger("stillbit")


@final
class Freezing(Method):
    """Freezes weights whose oscillation frequency exceeds a threshold.

    Args:
        model: A prepared model.
        steps: Optimizer steps of the run, from which the defaults follow; None: not known, then the threshold stands from the first step.
        threshold: Frequency per step above which a weight is frozen: a number, above 0, at most 1, which holds where freezing begins; or
            a schedule, for which the next two do not count, and whose values of 0 or less freeze nothing.
        final_threshold: The threshold at the last step, reached along a cosine; None: 0.01 as published, more in short runs.
        begin: Fraction of the steps before which none is frozen (tracking runs from the first).
        ema_momentum: Weight of the present step in frequencies and code averages; None: it follows from the steps
            (`stillbit.oscillation.windows`), 0.001 as published from 5,000 on.
        max_bits: Weights with more bits are neither tracked nor frozen; at most 7.
        use_ema: Freeze at the rounded average of the codes; else at the code of the moment.
        published: Do as the reference code does, see above.
        oscillating_above: A free weight with a higher frequency counts as oscillating.
        totals: Whether to count the oscillations of each weight, for 4 bytes per weight.

    Attributes:
        tracker: The histories, with averages of the codes.

    Raises:
        PrepareError: If no weight has so few bits.
        RecipeError: If a value is out of range.
    """

    order: ClassVar[int] = 30

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Count | None = None,
        threshold: Portion | Schedule = 0.1,
        final_threshold: Portion | None = None,
        begin: Fraction = 0.25,
        ema_momentum: Portion | None = None,
        max_bits: PinnedBits = 4,
        use_ema: bool = True,
        published: bool = False,
        oscillating_above: float = OSCILLATING_ABOVE,
        totals: bool = False,
    ) -> None:
        super().__init__(model)
        self.run_steps = steps
        momentum = momentum_for(steps) if ema_momentum is None else ema_momentum
        warn_if_short("Freezing", momentum, steps)
        self.tracker = Tracker(model, ema_momentum=momentum, max_bits=max_bits, oscillating_above=oscillating_above, totals=totals)
        self.threshold = _schedule(threshold, final_threshold, begin, steps, momentum)
        self.use_ema = use_ema
        self.published = published
        sites = self.tracker.sites()
        if not sites:
            raise PrepareError(f"Freezing: the model has no weight of at most {max_bits} bits; raise max_bits")
        for site in sites:
            if site.quantizer.pins is None:
                site.quantizer.allocate_pins(site.latent().shape)

    def start(self) -> None:
        """Begin histories and code averages at the codes of now; the published averages begin with freezing."""
        self.tracker.begin(averages=self._averages_from_the_start)

    def after_step(self, step: int) -> None:
        """Take the step's codes into the histories, freeze what exceeds the threshold, and hold frozen latents.

        A derived latent (a product of weights) cannot be held: what is written there is lost, and the pin alone holds the code. A
        latent that its grid follows from (StatsQ) is not held: each value written there would move the grid, and the grid the value.
        """
        threshold = self.threshold(step)
        averages = self.use_ema and (threshold > 0.0 or not self.published)
        self.tracker.update(threshold, averages=averages, pinning=Pinning(hold=not self.published, repin=self.published))

    def metrics(self) -> dict[str, float]:
        """Return the shares of tracked weights that are `frozen` and that still are `oscillating`."""
        return {"oscillating": whole_share(self.tracker.oscillating()), "frozen": whole_share(self._frozen())}

    def masks(self) -> dict[str, dict[str, Tensor]]:
        """Return `oscillating` and `frozen`."""
        return {"oscillating": self.tracker.oscillating(), "frozen": self._frozen()}

    def frequencies(self) -> dict[str, Tensor]:
        """Return those of the histories."""
        return self.tracker.frequencies()

    def state_dict(self) -> dict[str, Any]:
        """Return step and histories, code averages among them; pins are in the model's state dict."""
        return {**super().state_dict(), "sites": self.tracker.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        sites: dict[str, dict[str, Tensor]] = state.get("sites", {})
        for name, tensors in sites.items():
            if self._averages_from_the_start and "average_code" not in tensors:
                raise CheckpointError(f"oscillation state of {name}: no average_code; allowed: a state of Freezing with the same options")
        self.tracker.load_state_dict(sites)
        super().load_state_dict(state)

    @property
    def _averages_from_the_start(self) -> bool:
        return self.use_ema and not self.published

    def _frozen(self) -> dict[str, Tensor]:
        return {site.name: _pins(site) != FREE for site in self.tracker.sites()}


def _schedule(threshold: float | Schedule, final: float | None, begin: float, steps: int | None, momentum: float) -> Schedule:
    if not isinstance(threshold, int | float):
        return threshold
    if steps is None:
        return as_schedule(threshold)
    end = final_threshold_for(threshold, momentum) if final is None else final
    if min(threshold, end) < momentum:
        _log.warning(
            "freezing threshold %g is below ema_momentum %g: one oscillation is enough to freeze a weight", min(threshold, end), momentum
        )
    return Cosine(threshold, end, steps, begin=begin, before=0.0)


def _pins(site: WeightSite) -> Tensor:
    pins = site.quantizer.pins
    assert pins is not None
    return pins
