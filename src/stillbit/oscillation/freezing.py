"""Iterative freezing: a weight that oscillates too often is pinned to the code at which it spends most of its time.

Source: "Overcoming Oscillations in Quantization-Aware Training" (ICML 2022, arXiv 2203.11086), section 4.3, algorithm 1.
Deviates from its reference code in: a pinned weight stays at its code (there it may be pinned anew while its frequency is high, and
may then toggle for ever); the average of the codes begins with tracking, not when freezing does (there the first cohort is pinned to
its momentary code); pinned latents are rewritten to their value, so that what ignores pins (an export, an average of weights) computes
the same. `published=True` restores the reference in all three.
"""

import logging
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from stillbit.errors import CheckpointError, PrepareError, RecipeError
from stillbit.numerics.kernels import FREE
from stillbit.oscillation.history import Pinning
from stillbit.oscillation.method import Method, whole_share
from stillbit.oscillation.tracking import OSCILLATING_ABOVE, Tracker, check_tracking
from stillbit.quantizers import WeightSite
from stillbit.schedules import Cosine, Schedule, as_schedule

_log = logging.getLogger("stillbit")


@final
class Freezing(Method):
    """Pins weights whose oscillation frequency exceeds a threshold.

    Args:
        model: A prepared model.
        threshold: Frequency above which a weight is pinned, a number or a schedule; 0 or less: none is pinned at that step.
        ema_momentum: Weight of the present step in frequencies and code averages, above 0, at most 1.
        max_bits: Weights with more bits are neither tracked nor pinned; at most 7.
        use_ema: Pin to the rounded average of the codes; else to the code of the moment.
        published: Do as the reference code does, see above.
        oscillating_above: A free weight with a higher frequency counts as oscillating.
        totals: Whether to count the oscillations of each weight, for 4 bytes a weight.

    Attributes:
        tracker: The histories, with averages of the codes.

    Raises:
        PrepareError: If no weight has so few bits.
        RecipeError: If a value is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        threshold: float | Schedule,
        ema_momentum: float = 0.01,
        max_bits: int = 4,
        use_ema: bool = True,
        published: bool = False,
        oscillating_above: float = OSCILLATING_ABOVE,
        totals: bool = False,
    ) -> None:
        super().__init__(model)
        self.tracker = Tracker(model, ema_momentum=ema_momentum, max_bits=max_bits, oscillating_above=oscillating_above, totals=totals)
        self.threshold = as_schedule(threshold)
        self.use_ema = use_ema
        self.published = published
        sites = self.tracker.sites()
        if not sites:
            raise PrepareError(f"Freezing: the model has no weight of at most {max_bits} bits; raise max_bits")
        for site in sites:
            if site.quantizer.pins is None:
                site.quantizer.allocate_pins(site.latent().shape)

    def start(self) -> None:
        """Begins histories and code averages at the codes of now; the published averages begin with freezing."""
        self.tracker.begin(averages=self._averages_from_the_start)

    def after_step(self, step: int) -> None:
        """Takes the step's codes into the histories, pins what exceeds the threshold, and holds pinned latents.

        A derived latent (a product of weights) cannot be held: what is written there is lost, and the pin alone holds the code. A
        latent that its grid follows from (StatsQ) is not held: each value written there would move the grid, and the grid the value.
        """
        threshold = self.threshold(step)
        averages = self.use_ema and (threshold > 0.0 or not self.published)
        self.tracker.update(threshold, averages=averages, pinning=Pinning(hold=not self.published, repin=self.published))

    def metrics(self) -> dict[str, float]:
        """Gives the shares of tracked weights that are `frozen` and that still are `oscillating`."""
        return {"oscillating": whole_share(self.tracker.oscillating()), "frozen": whole_share(self._frozen())}

    def masks(self) -> dict[str, dict[str, Tensor]]:
        """Gives `oscillating` and `frozen`."""
        return {"oscillating": self.tracker.oscillating(), "frozen": self._frozen()}

    def frequencies(self) -> dict[str, Tensor]:
        """Gives those of the histories."""
        return self.tracker.frequencies()

    def state_dict(self) -> dict[str, Any]:
        """Gives step and histories, code averages among them; pins are in the model's state dict."""
        return {**super().state_dict(), "sites": self.tracker.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
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


def _pins(site: WeightSite) -> Tensor:
    pins = site.quantizer.pins
    assert pins is not None
    return pins


@dataclass(frozen=True)
class FreezingConfig:
    """Freezing in a recipe; the defaults are those of the published MobileNetV2 at W4A4.

    Args:
        threshold: Frequency above which a weight is pinned, where freezing begins; above 0, at most 1.
        final_threshold: The threshold at the last step, reached along a cosine; None: `threshold`.
        begin: Fraction of the steps before which none is pinned (tracking runs from the first), 0 to 1.
        ema_momentum: Weight of the present step in frequencies and code averages.
        max_bits: Weights with more bits are left alone; at most 7.
        use_ema: Pin to the rounded average of the codes; else to the code of the moment.
        published: Do as the reference code does where it differs (docs/methods/freezing.md).
        totals: Whether to count the oscillations of each weight, for 4 bytes a weight.

    Raises:
        RecipeError: If a value is out of range.
    """

    threshold: float = 0.1
    final_threshold: float | None = 0.01
    begin: float = 0.25
    ema_momentum: float = 0.001
    max_bits: int = 4
    use_ema: bool = True
    published: bool = False
    totals: bool = False

    def __post_init__(self) -> None:
        check_tracking(self.ema_momentum, self.max_bits)
        if self.max_bits > 7:
            raise RecipeError(f"max_bits is {self.max_bits}; allowed: 1 to 7, pins have no room for more")
        for name, given in (("threshold", self.threshold), ("final_threshold", self.final_threshold)):
            if given is not None and not 0.0 < given <= 1.0:
                raise RecipeError(f"{name} is {given}; allowed: above 0, at most 1")
        if not 0.0 <= self.begin <= 1.0:
            raise RecipeError(f"begin is {self.begin}; allowed: 0 to 1, a fraction of the steps")

    def build(self, model: nn.Module, steps: int) -> Freezing:
        """Makes the method for a run of `steps` optimizer steps."""
        final = self.threshold if self.final_threshold is None else self.final_threshold
        lowest = min(self.threshold, final)
        if lowest < self.ema_momentum:
            _log.warning(
                "freezing threshold %g is below ema_momentum %g: one oscillation is enough to pin a weight", lowest, self.ema_momentum
            )
        return Freezing(
            model,
            threshold=Cosine(self.threshold, final, steps, begin=self.begin, before=0.0),
            ema_momentum=self.ema_momentum,
            max_bits=self.max_bits,
            use_ema=self.use_ema,
            published=self.published,
            totals=self.totals,
        )
