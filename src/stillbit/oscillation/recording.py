"""Recording: the positions of some weights at every step, for pictures of what they do."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, final

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError, RecipeError
from stillbit.oscillation.method import Method
from stillbit.quantizers import WeightSite, weight_sites


@final
class Recording(Method):
    """Keeps the positions (latents in grid units) of weights over training.

    Args:
        model: A prepared model.
        layers: Shell pattern of the layers' names.
        weights: How many weights of each layer are kept, spread evenly over it.
        steps: How many steps there is room for, from the first on.

    Attributes:
        positions: By site, float32 of shape (steps, weights): NaN where no step has been taken yet.

    Raises:
        RecipeError: If no quantized layer matches, or a number is below 1.
    """

    def __init__(self, model: nn.Module, *, layers: str, weights: int, steps: int) -> None:
        super().__init__(model)
        if weights < 1 or steps < 1:
            raise RecipeError(f"recording: weights is {weights} and steps is {steps}; both must be at least 1")
        self.layers = layers
        self.weights = weights
        self.positions = {
            site.name: torch.full((steps, min(weights, site.latent().numel())), torch.nan, device=site.latent().device)
            for site in self._sites()
        }
        if not self.positions:
            known = ", ".join(site.name for site in weight_sites(model))
            raise RecipeError(f"recording: layers is {layers!r}, which matches no quantized layer; there are {known}")

    def _sites(self) -> list[WeightSite]:
        return [site for site in weight_sites(self.model) if fnmatchcase(site.name, self.layers)]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Notes the positions; nothing once the room is used up."""
        for site in self._sites():
            room = self.positions[site.name]
            if step <= len(room):
                room[step - 1] = site.quantizer.position(site.latent()).flatten()[self._kept(site)]

    def _kept(self, site: WeightSite) -> Tensor:
        latent, count = site.latent(), self.positions[site.name].shape[1]
        return torch.arange(count, device=latent.device) * latent.numel() // count

    def metrics(self) -> dict[str, float]:
        """Gives nothing: positions are to be looked at."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Gives step and positions, as references."""
        return {**super().state_dict(), "positions": dict(self.positions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave.

        Raises:
            CheckpointError: If it records other layers, or has room for another number of weights or steps.
        """
        super().load_state_dict(state)
        given = {name: list(room.shape) for name, room in state["positions"].items()}
        allowed = {name: list(room.shape) for name, room in self.positions.items()}
        if given != allowed:
            raise CheckpointError(f"recording: positions of {given} given, allowed: {allowed}")
        for name, room in state["positions"].items():
            self.positions[name].copy_(room)


@dataclass(frozen=True)
class RecordingConfig:
    """Which weights are recorded.

    Attributes:
        layers: Shell pattern of layer names.
        weights: How many weights of each layer.
    """

    layers: str = "*"
    weights: int = 64

    def build(self, model: nn.Module, steps: int) -> Recording:
        """Makes the method for a run of `steps` steps."""
        return Recording(model, layers=self.layers, weights=self.weights, steps=steps)
