"""Recording: the positions of some weights at every step, for pictures of what they do."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError, RecipeError
from stillbit.options import Count, checked
from stillbit.oscillation.method import Method
from stillbit.quantizers import WeightSite, weight_sites


@final
class Window:
    """The positions of chosen weights over consecutive steps.

    Args:
        chosen: By site, int64 (weights,): which elements of its flattened latent, on the latent's device.
        first_step: The first of the steps.
        steps: How many there is room for.

    Attributes:
        positions: By site, float32 (steps, weights): NaN where no step has been taken yet.
    """

    def __init__(self, chosen: Mapping[str, Tensor], *, first_step: int, steps: int) -> None:
        self.chosen = dict(chosen)
        self.first_step = first_step
        self.positions = {name: torch.full((steps, len(kept)), torch.nan, device=kept.device) for name, kept in chosen.items()}

    @property
    def last_step(self) -> int:
        """The last of the steps."""
        return self.first_step + max((len(room) for room in self.positions.values()), default=0) - 1

    @torch.no_grad()
    def note(self, model: nn.Module, step: int) -> None:
        """Keep the positions of now; nothing outside the window.

        Args:
            model: The model that the sites are of.
            step: The step just taken.
        """
        for site in weight_sites(model):
            kept, room = self.chosen.get(site.name), self.positions.get(site.name)
            if kept is not None and room is not None and 0 <= step - self.first_step < len(room):
                room[step - self.first_step] = positions_on_codes(site).flatten()[kept]

    def state_dict(self) -> dict[str, Any]:
        """Return everything, tensors as references."""
        return {"first_step": self.first_step, "chosen": dict(self.chosen), "positions": dict(self.positions)}

    @classmethod
    def restored(cls, state: Mapping[str, Any], model: nn.Module) -> Self:
        """Make a window of what `state_dict` returned.

        Args:
            state: It; tensors are copied to where the model's weights are.
            model: The model that its sites are of.
        """
        devices = {site.name: site.latent().device for site in weight_sites(model)}
        window = cls({}, first_step=state["first_step"], steps=0)
        window.chosen = {name: kept.to(devices[name], copy=True) for name, kept in state["chosen"].items()}
        window.positions = {name: room.to(devices[name], copy=True) for name, room in state["positions"].items()}
        return window


@torch.no_grad()
def positions_on_codes(site: WeightSite) -> Tensor:
    """Return a site's latent in grid units, counted so that grid points stand at their codes; a pinned weight stands at its code."""
    latent = site.latent()
    position, zero_point = site.quantizer.position(latent), site.quantizer.grid(latent).zero_point
    return position + zero_point if isinstance(zero_point, Tensor) else position


@final
class Recording(Method):
    """Keep the positions (latents in grid units) of weights over training.

    Args:
        model: A prepared model.
        steps: How many steps there is room for, from the first on.
        layers: Shell pattern of the layers' names.
        weights: How many weights of each layer are kept, spread evenly over it.

    Raises:
        RecipeError: If no quantized layer matches, or a number is below 1.
    """

    order: ClassVar[int] = 50
    watches_only: ClassVar[bool] = True

    @checked
    def __init__(self, model: nn.Module, *, steps: Count, layers: str = "*", weights: Count = 64) -> None:
        super().__init__(model)
        chosen = {site.name: _spread(site.latent(), weights) for site in weight_sites(model) if fnmatchcase(site.name, layers)}
        if not chosen:
            known = ", ".join(site.name for site in weight_sites(model))
            raise RecipeError(f"recording: layers is {layers!r}, which matches no quantized layer; there are {known}")
        self._window = Window(chosen, first_step=1, steps=steps)

    @property
    def positions(self) -> dict[str, Tensor]:
        """By site, float32 of shape (steps, weights): NaN where no step has been taken yet."""
        return self._window.positions

    def after_step(self, step: int) -> None:
        """Note the positions; nothing once the room is used up."""
        self._window.note(self.model, step)

    def metrics(self) -> dict[str, float]:
        """Return nothing: positions are to be looked at."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return step and positions, as references."""
        return {**super().state_dict(), "positions": dict(self.positions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned.

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


def _spread(latent: Tensor, count: int) -> Tensor:
    """Return the places of `count` weights, or of all, spread evenly over a latent."""
    count = min(count, latent.numel())
    return torch.arange(count, device=latent.device) * latent.numel() // count
