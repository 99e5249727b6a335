"""Puts tensors under our names: everything is checked before anything is written, so that a refused import changes nothing."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError
from stillbit.numerics.limits import FREE
from stillbit.quantizers.base import Quantizer

_COUNTER = "batches that batch norm has seen, not saved there: as before"
_BOUND = "(one scale per token: a checkpoint serves one image size)"
_SHOWN = 3  # names of a list that an error gives


@dataclass(frozen=True)
class Target:
    """Where a tensor goes.

    Attributes:
        name: Our parameter or buffer.
        part: Which of `parts` equal parts of its first axis.
        parts: How many there are.
    """

    name: str
    part: int = 0
    parts: int = 1

    def part_of(self, whole: Tensor) -> Tensor:
        """Return the part of our tensor, or of its gradient, that is meant; a view."""
        return whole.chunk(self.parts)[self.part] if self.parts > 1 else whole


@dataclass
class Placing:
    """An import in the making.

    Attributes:
        origin: What the checkpoint is called in messages.
        model: Ours.
        placed: Places by published key.
        ignored: Why, by published key.
        filled: What stands in our parameters instead, by our name.
        signs: Signs of quantizers, by their name.
    """

    origin: str
    model: nn.Module
    placed: dict[str, tuple[Target, ...]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    filled: dict[str, str] = field(default_factory=dict)
    signs: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ours = dict(self.model.state_dict(keep_vars=True))
        self._values: dict[Target, Tensor] = {}
        self._unknown: list[str] = []
        self._misfits: list[str] = []

    def ours(self, name: str) -> Tensor | None:
        """Return a parameter or buffer of ours; None if there is none of that name."""
        return self._ours.get(name)

    def ignore(self, key: str, reason: str) -> None:
        """Note that a tensor is not needed."""
        self.ignored[key] = reason

    def place(self, key: str, tensor: Tensor, targets: Iterable[Target]) -> None:
        """Plan to put a tensor in its places: equal parts of it where there are several.

        Args:
            key: Its published name.
            tensor: The tensor.
            targets: Its places; what our model lacks, or has in another size, makes the import fail in `finish`.

        Raises:
            CheckpointError: If it is not finite, or another tensor stands in its place.
        """
        targets = tuple(targets)
        if any(target.name not in self._ours for target in targets):
            self._unknown.append(key)
            return
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{self.origin}: {key} is not finite")
        pieces = tensor.chunk(len(targets)) if len(targets) > 1 else (tensor,)
        for target, piece in zip(targets, pieces, strict=True):
            shape = target.part_of(self._ours[target.name]).shape
            if self._is_taken(target):
                raise CheckpointError(f"{self.origin}: {key} and another tensor are both for {target.name}; allowed: one")
            if piece.shape == shape or (piece.dim() <= 1 and piece.numel() == math.prod(shape)):
                self._values[target] = piece.reshape(shape)
            else:
                self._misfits.append(_misfit(key, piece, target.name, shape))
        self.placed[key] = targets

    def fill(self, target: Target, value: float, reason: str) -> None:
        """Plan to fill a place that no tensor is for; one that has been given anything stays.

        Args:
            target: The place.
            value: What to fill it with.
            reason: What to say of it.
        """
        if self._is_taken(target):
            return
        self._values[target] = torch.full_like(target.part_of(self._ours[target.name]), value)
        self.filled[target.name] = reason

    def keep_counters(self) -> None:
        """Note that counters of batch norm stay as they are where no tensor is given: not every codebase saves them."""
        for name in self._ours:
            if name.endswith("num_batches_tracked") and not self._is_given(name):
                self.filled[name] = _COUNTER

    def finish(self, allowed: str) -> None:
        """Write everything, or refuse and change nothing.

        Args:
            allowed: What the model has to be, for the message.

        Raises:
            CheckpointError: If a tensor has no place or another size, or something of ours got nothing.
        """
        if self._misfits and not self._unknown:  # else it is of another network altogether
            misfit = next((one for one in self._misfits if one.endswith(_BOUND)), self._misfits[0])
            raise CheckpointError(f"{self.origin}: {misfit}")
        problems = [f"{len(names)} {what} ({_first(names)})" for what, names in self._problems() if names]
        if problems:
            raise CheckpointError(f"{self.origin}: does not fit the model: {'; '.join(problems)}; allowed: {allowed}")
        with torch.no_grad():
            for target, value in self._values.items():
                target.part_of(self._ours[target.name].detach()).copy_(value)
        for name, quantizer in self._quantizers():
            quantizer.mark_calibrated(signed=self.signs.get(name, quantizer.is_signed))
            if quantizer.pins is not None:
                quantizer.pins.fill_(FREE)  # neither codebase saves what it has frozen

    def _quantizers(self) -> list[tuple[str, Quantizer]]:
        return [(name, module) for name, module in self.model.named_modules() if isinstance(module, Quantizer)]

    def _problems(self) -> list[tuple[str, list[str]]]:
        missing = [name for name in self._ours if not self._is_given(name)]
        unsigned = [
            name for name, one in self._quantizers() if one.needs_range and name not in self.signs and f"{name}.scale" not in missing
        ]
        return [("keys have no place", self._unknown), ("of ours get nothing", missing), ("quantizers get no sign", unsigned)]

    def _is_taken(self, target: Target) -> bool:
        return target in self._values or any(one.parts != target.parts for one in self._given(target.name))

    def _given(self, name: str) -> list[Target]:
        return [target for target in self._values if target.name == name]

    def _is_given(self, name: str) -> bool:
        owner, _, field_name = name.rpartition(".")
        if field_name in ("signed", "calibrated", "pins") and isinstance(self.model.get_submodule(owner), Quantizer):
            return True  # `finish` sets them
        given = self._given(name)
        if not given:
            return name in self.filled
        return len({target.part for target in given}) == given[0].parts


def _misfit(key: str, tensor: Tensor, name: str, shape: torch.Size) -> str:
    """Describe that a tensor has another size than ours; of scales per token also why."""
    if tensor.dim() > 1:
        return f"{key} is {tuple(tensor.shape)}; allowed: {tuple(shape)}, as {name} is"
    message = f"{key} has {tensor.numel()} elements; allowed: {math.prod(shape)}, as {name} has"
    return f"{message} {_BOUND}" if name.endswith(".scale") and len(shape) > 2 and shape[-1] == 1 else message


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
