"""What is known of the past of one weight site, element by element."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from stillbit.errors import CheckpointError
from stillbit.numerics import kernels
from stillbit.numerics.grid import compute_dtype
from stillbit.numerics.layout import layout
from stillbit.quantizers import WeightSite


@dataclass
class History:
    """Oscillation state of a weight (arXiv 2203.11086, section 4.1); every tensor has its shape.

    Attributes:
        previous: Codes at the last update; int8, or int16 where a difference of two codes needs it.
        direction: Sign of the last switch, int8: 1 the code went down, -1 up, 0 it never switched.
        frequency: Exponential moving average of oscillations a step; float32, float64 for float64 latents.
        total: Number of oscillations, int32.
        average_code: Exponential moving average of the codes, dtype of `frequency`; None where nobody asked for one.
    """

    previous: Tensor
    direction: Tensor
    frequency: Tensor
    total: Tensor
    average_code: Tensor | None = None

    @classmethod
    def starting_at(cls, code: Float[Tensor, "..."], limits: tuple[int, int]) -> Self:
        """Begins a history without switches.

        Args:
            code: The codes now.
            limits: Smallest and largest code.
        """
        low, high = limits
        integer = torch.int8 if high - low <= torch.iinfo(torch.int8).max else torch.int16
        previous = code.to(integer)
        return cls(
            previous,
            direction=torch.zeros_like(previous, dtype=torch.int8),
            frequency=torch.zeros_like(code),
            total=torch.zeros_like(previous, dtype=torch.int32),
        )

    def update(self, code: Float[Tensor, "..."], momentum: float) -> None:
        """Takes up the codes of one more step (cnn spec 3, steps 5 to 8).

        A switch is any change of a code, also by several; an oscillation is a switch against the direction of the switch before it,
        however long ago that was.

        Args:
            code: The codes now.
            momentum: Weight of this step in the frequency.
        """
        seen = layout(code, code.new_ones(1))
        state = (self.previous, self.direction, self.frequency, self.total)
        # The share enters rounded to float32, for float64 latents too, as published.
        share = float(torch.tensor(momentum, dtype=torch.float32))
        advanced = kernels.run(_advance, seen.view(code), *(seen.view(one) for one in state), 1.0 - momentum, share)
        self.previous, self.direction, self.frequency, self.total = (seen.restore(one, code) for one in advanced if one is not None)

    def average(self, code: Float[Tensor, "..."], momentum: float) -> None:
        """Takes the codes of one more step into their average.

        Args:
            code: The codes now.
            momentum: Weight of this step in the average.
        """
        assert self.average_code is not None
        # The product is rounded before the sum, as published; add_(alpha=) and lerp_ round otherwise.
        self.average_code.mul_(1.0 - momentum).add_(momentum * code)

    def state_dict(self) -> dict[str, Tensor]:
        """Gives the tensors that are there by name, as references."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @classmethod
    def restored(cls, state: dict[str, Tensor], site: WeightSite) -> Self:
        """Makes a history of what `state_dict` gave.

        Args:
            state: Tensors by name.
            site: The site that they shall fit.

        Raises:
            CheckpointError: If they do not.
        """
        names = [field.name for field in fields(cls)]
        if set(state) | {"average_code"} != set(names):
            raise CheckpointError(f"oscillation state of {site.name}: {sorted(state)} given, allowed: {names}")
        return cls(**{name: _fitting(saved, site) for name, saved in state.items()})


def _fitting(saved: Tensor, site: WeightSite) -> Tensor:
    """Copies a saved tensor to the device, and if it is a float tensor to the dtype, of a site's arithmetic."""
    latent = site.latent()
    if saved.shape != latent.shape:
        raise CheckpointError(f"oscillation state of {site.name}: shape {list(saved.shape)} given, allowed: {list(latent.shape)}")
    dtype = compute_dtype(latent) if saved.is_floating_point() else saved.dtype
    return saved.to(device=latent.device, dtype=dtype, copy=True)


def _advance(
    code: Tensor, previous: Tensor, direction: Tensor, frequency: Tensor, total: Tensor, kept_share: float, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Takes one more step into a history, element by element: one pass over all of it where it is compiled."""
    current = code.to(previous.dtype)
    moved = (previous - current).sign().to(torch.int8)
    oscillated = moved * direction == -1
    frequency = frequency * kept_share + oscillated.to(frequency.dtype) * share
    return current, torch.where(moved != 0, moved, direction), frequency, total + oscillated
