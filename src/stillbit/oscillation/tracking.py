"""Tracking: how often each weight flips to and fro between codes.

Source: "Overcoming Oscillations in Quantization-Aware Training" (ICML 2022, arXiv 2203.11086), section 4.1.
Deviates from its reference code in: codes are compared once an optimizer step, never in a forward pass and never in evaluation; state
is saved; the first codes are those at `attach`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError, RecipeError
from stillbit.numerics.kernels import FREE
from stillbit.oscillation.history import History
from stillbit.oscillation.method import Method
from stillbit.quantizers import WeightSite, weight_sites

OSCILLATING_ABOVE = 0.005  # the frequency from which the paper counts a weight as oscillating (table 4)


@final
class Tracker:
    """The histories of a model's low-bit weights. `Tracking` and `Freezing` each own one.

    Args:
        model: A prepared model.
        ema_momentum: Weight of the present step in the frequencies, above 0, at most 1.
        max_bits: Weights with more bits are not tracked.
        oscillating_above: A free weight with a higher frequency counts as oscillating.

    Attributes:
        histories: By name of the site.
    """

    def __init__(self, model: nn.Module, *, ema_momentum: float, max_bits: int, oscillating_above: float) -> None:
        check_tracking(ema_momentum, max_bits)
        self.model = model
        self.ema_momentum = ema_momentum
        self.max_bits = max_bits
        self.oscillating_above = oscillating_above
        self.histories: dict[str, History] = {}

    def sites(self) -> list[WeightSite]:
        """Gives the sites that are tracked, found afresh."""
        return [site for site in weight_sites(self.model) if site.quantizer.bits <= self.max_bits]

    @torch.no_grad()
    def observe(self, site: WeightSite) -> Tensor:
        """Gives the codes of a site, pins included; its history begins with them if it has none."""
        code = site.quantizer.code(site.latent())
        if site.name not in self.histories:
            self.histories[site.name] = History.starting_at(code, site.quantizer.limits)
        return code

    @torch.no_grad()
    def update(self, site: WeightSite) -> Tensor:
        """Takes one more step of a site into its history; a first step begins it. Gives the codes, pins included."""
        code = self.observe(site)
        self.histories[site.name].update(code, self.ema_momentum)
        return code

    def oscillating(self) -> dict[str, Tensor]:
        """Gives by site which weights oscillate: free ones whose frequency is above the limit. A pinned weight cannot."""
        masks = {}
        for site in self.sites():
            if site.name in self.histories:
                above = self.histories[site.name].frequency > self.oscillating_above
                pins = site.quantizer.pins
                masks[site.name] = above if pins is None else above & (pins == FREE)
        return masks

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Gives the histories as tensors, by site, as references."""
        return {name: history.state_dict() for name, history in self.histories.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Takes up what `state_dict` gave: of every tracked site, or of none (not begun).

        Args:
            state: Tensors by name, by site.

        Raises:
            CheckpointError: If it does not fit; the message names the site.
        """
        sites = {site.name: site for site in self.sites()}
        for name in sites.keys() ^ state.keys() if state else ():
            known = "the model does not track it" if name in state else "the state lacks it"
            raise CheckpointError(f"oscillation state of {name}: {known}; allowed: a state of the same model and max_bits")
        self.histories = {name: History.restored(state[name], site) for name, site in sites.items() if state}


@final
class Tracking(Method):
    """Watches, and changes nothing.

    Args:
        model: A prepared model.
        ema_momentum: Weight of the present step in the frequencies, above 0, at most 1.
        max_bits: Weights with more bits are not tracked; 8-bit first and last layers hardly oscillate.
        oscillating_above: A weight with a higher frequency counts as oscillating.

    Attributes:
        tracker: The histories.

    Raises:
        RecipeError: If a value is out of range.
    """

    def __init__(
        self, model: nn.Module, *, ema_momentum: float = 0.01, max_bits: int = 4, oscillating_above: float = OSCILLATING_ABOVE
    ) -> None:
        super().__init__(model)
        self.tracker = Tracker(model, ema_momentum=ema_momentum, max_bits=max_bits, oscillating_above=oscillating_above)

    def start(self) -> None:
        """Begins the histories at the codes of now."""
        for site in self.tracker.sites():
            self.tracker.observe(site)

    def after_step(self, step: int) -> None:
        """Takes the step's codes into the histories."""
        del step
        for site in self.tracker.sites():
            self.tracker.update(site)

    def metrics(self) -> dict[str, float]:
        """Gives `oscillating`, the share of tracked weights that oscillate."""
        return {"oscillating": whole_share(self.tracker.oscillating())}

    def layer_metrics(self) -> dict[str, dict[str, float]]:
        """Gives `oscillating` by site."""
        return {name: {"oscillating": share} for name, share in shares(self.tracker.oscillating()).items()}

    def state_dict(self) -> dict[str, Any]:
        """Gives step and histories."""
        return {**super().state_dict(), "sites": self.tracker.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.tracker.load_state_dict(state.get("sites", {}))
        super().load_state_dict(state)


@dataclass(frozen=True)
class TrackingConfig:
    """Tracking in a recipe.

    Args:
        ema_momentum: Weight of the present step in the frequencies; 0.001 as published.
        max_bits: Weights with more bits are not tracked.

    Raises:
        RecipeError: If a value is out of range.
    """

    ema_momentum: float = 0.001
    max_bits: int = 4

    def __post_init__(self) -> None:
        check_tracking(self.ema_momentum, self.max_bits)

    def build(self, model: nn.Module, steps: int) -> Tracking:
        """Makes the method for a run of `steps` optimizer steps, which do not matter here."""
        del steps
        return Tracking(model, ema_momentum=self.ema_momentum, max_bits=self.max_bits)


def check_tracking(ema_momentum: float, max_bits: int) -> None:
    """Checks what every tracking method takes.

    Raises:
        RecipeError: If a value is out of range.
    """
    if not 0.0 < ema_momentum <= 1.0:
        raise RecipeError(f"ema_momentum is {ema_momentum}; allowed: above 0, at most 1")
    if not 1 <= max_bits <= 8:
        raise RecipeError(f"max_bits is {max_bits}; allowed: 1 to 8")


def shares(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Gives by site the fraction of weights that are in the mask."""
    return {name: count / masks[name].numel() for name, count in _counts(masks).items()}


def whole_share(masks: Mapping[str, Tensor]) -> float:
    """Gives the fraction of all weights that are in the masks; 0 where there are no weights."""
    return sum(_counts(masks).values()) / max(1, sum(mask.numel() for mask in masks.values()))


def _counts(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Counts each mask; one transfer from the device for all."""
    if not masks:
        return {}
    return dict(zip(masks, torch.stack([mask.sum() for mask in masks.values()]).tolist(), strict=True))
