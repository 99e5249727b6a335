"""What is known of the past of one weight site, element by element, and the kernel that takes one more step into it."""

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import torch
from torch import Tensor

from stillbit.errors import CheckpointError
from stillbit.numerics import kernels
from stillbit.numerics.kernels import CanonicalGrid
from stillbit.numerics.limits import FREE, compute_dtype
from stillbit.quantizers import WeightSite


@dataclass
class History:
    """Oscillation state of a weight (arXiv 2203.11086, section 4.1); every tensor has its shape.

    Attributes:
        previous: Codes at the last update; int8, or int16 where a difference of two codes needs it.
        direction: Sign of the last switch, int8: 1 the code went down, -1 up, 0 it never switched.
        frequency: Exponential moving average of oscillations a step; float32, float64 for float64 latents.
        total: Number of oscillations, int32; None where nobody asked for it.
        average_code: Exponential moving average of the codes, dtype of `frequency`; None where nobody asked for one.
    """

    previous: Tensor
    direction: Tensor
    frequency: Tensor
    total: Tensor | None = None
    average_code: Tensor | None = None

    @classmethod
    def starting_at(cls, code: Tensor, limits: tuple[int, int], *, totals: bool = False) -> Self:
        """Begin a history without switches.

        Args:
            code: The codes now.
            limits: Smallest and largest code.
            totals: Whether to count oscillations.
        """
        low, high = limits
        integer = torch.int8 if high - low <= torch.iinfo(torch.int8).max else torch.int16
        previous = code.to(integer)
        return cls(
            previous,
            direction=torch.zeros_like(previous, dtype=torch.int8),
            frequency=torch.zeros_like(code),
            total=torch.zeros_like(previous, dtype=torch.int32) if totals else None,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that are there by name, as references."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @classmethod
    def restored(cls, state: dict[str, Tensor], site: WeightSite, *, totals: bool = False) -> Self:
        """Make a history of what `state_dict` gave.

        Args:
            state: Tensors by name.
            site: The site that they shall fit.
            totals: Whether oscillations are counted.

        Raises:
            CheckpointError: If they do not.
        """
        if totals != ("total" in state):
            raise CheckpointError(
                f"oscillation state of {site.name}: saved with totals={not totals}, loaded with totals={totals}; "
                "allowed: the same option in both"
            )
        names = [field.name for field in fields(cls) if field.name != "total" or totals]
        if set(state) | {"average_code"} != set(names):
            raise CheckpointError(f"oscillation state of {site.name}: {sorted(state)} given, allowed: {names}")
        latent = site.latent()
        return cls(**{name: _fitting(saved, latent, site.name) for name, saved in state.items()})


def _fitting(saved: Tensor, latent: Tensor, name: str) -> Tensor:
    """Copy a saved tensor to the device, and if it is a float tensor to the dtype, of a latent's arithmetic."""
    if saved.shape != latent.shape:
        raise CheckpointError(f"oscillation state of {name}: shape {list(saved.shape)} given, allowed: {list(latent.shape)}")
    dtype = compute_dtype(latent) if saved.is_floating_point() else saved.dtype
    return saved.to(device=latent.device, dtype=dtype, copy=True)


class Momentum(NamedTuple):
    """What one step counts for in a moving average.

    Attributes:
        kept: Share of all steps before it.
        of_oscillation: Its own in a frequency: rounded to float32, for float64 latents too, as published.
        of_code: Its own in an average of codes.
    """

    kept: float
    of_oscillation: float
    of_code: float

    @classmethod
    def of(cls, momentum: float) -> Self:
        """Make it of the weight of the present step, above 0, at most 1."""
        return cls(1.0 - momentum, float(torch.tensor(momentum, dtype=torch.float32)), momentum)


class Pinning(NamedTuple):
    """What is fixed in the kernel when it pins.

    Attributes:
        hold: Whether pinned latents are set to the value of their code.
        repin: Whether what is pinned may be pinned again.
    """

    hold: bool
    repin: bool


class Advanced(NamedTuple):
    """The tensors of a weight that a step changes or reads, as `advance` takes them."""

    previous: Tensor
    direction: Tensor
    frequency: Tensor
    total: Tensor | None
    average: Tensor | None
    pins: Tensor | None
    latent: Tensor


def advance(weight: Advanced, grid: CanonicalGrid, momentum: Momentum, threshold: Tensor | None, pinning: Pinning | None) -> tuple[()]:
    """Do steps 5 to 9 of docs/spec/cnn.md, 3: take the codes of one more step into a history, pins, and holds (numerics/fast/passes.py).

    A switch is any change of a code, also by several; an oscillation is a switch against the direction of the switch before it,
    however long ago that was. A weight whose frequency is above the threshold is pinned to its average code as it was before this step.
    """
    previous, direction, frequency, total, average, pins, latent = weight
    (code,) = kernels.code(latent, grid, pins)
    moved = (previous.to(code.dtype) - code).sign()
    oscillated = moved * direction.to(code.dtype) == -1
    advanced = frequency * momentum.kept + oscillated.to(frequency.dtype) * momentum.of_oscillation
    if pinning is not None:
        assert pins is not None
        assert threshold is not None
        crossing = advanced > threshold
        target = code if average is None else average.round()
        pinned = torch.where(crossing if pinning.repin else crossing & (pins == FREE), target, pins.to(code.dtype))
        if pinning.hold:
            value = kernels.value(pinned, grid)
            latent.copy_(torch.where(pinned != FREE, value.to(latent.dtype), latent))
        pins.copy_(pinned)
    if average is not None:
        # The product is rounded before the sum, as published; add_(alpha=) and lerp_ round otherwise.
        average.copy_(average * momentum.kept + momentum.of_code * code)
    if total is not None:
        total.add_(oscillated)
    previous.copy_(code)
    direction.copy_(torch.where(moved != 0, moved, direction.to(code.dtype)))
    frequency.copy_(advanced)
    return ()
