"""The base of oscillation methods: small objects that are told the time and see nothing but weight sites."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stillbit.errors import CheckpointError, PrepareError
from stillbit.oscillation.hooks import check_holds_scales, lift_scales, ride, stepping_optimizer
from stillbit.oscillation.optimizer_rules import Stepping, warn
from stillbit.quantizers import weight_sites


class Method(ABC):
    """Something that watches or treats oscillating weights, once per optimizer step. Every hook does nothing by default.

    Args:
        model: A prepared model.

    Attributes:
        model: The model.
        step: Optimizer steps seen since `attach`; skipped ones are not counted.
        attached_to: The optimizer whose steps it sees; None before `attach`.
        gradient_scale: What `before_step` multiplies a gradient by that it adds; not 1 only while a fused optimizer steps under a
            gradient scaler.
        order: Its place among the methods on one optimizer, whatever the order of attaching: what adds to gradients first, what puts
            weights back before what looks at them. Those of the library have 10 to 50.
        watches_only: Whether it changes nothing, so that other libraries' layers suit it too.

    Raises:
        PrepareError: If the model has no quantized weight, or one that can only be watched.
    """

    order: ClassVar[int] = 60
    watches_only: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        name, sites = type(self).__name__, weight_sites(model)
        if not sites:
            raise PrepareError(f"{name}: the model has no quantized weight; prepare it first")
        foreign = [site.name for site in sites if site.quantizer.read_only]
        if foreign and not self.watches_only:
            raise PrepareError(f"{name}: layer {foreign[0]} is another library's and can only be watched; allowed: Tracking, or prepare")
        self.model = model
        self.step = 0
        self.gradient_scale: Tensor | float = 1.0
        self.attached_to: Optimizer | None = None

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return figures of the whole model, computed when asked; shares are fractions of 1."""

    def masks(self) -> dict[str, dict[str, Tensor]]:
        """Return which weights are as the method knows them to be (`oscillating`, `frozen`, `free`): bool tensors by site, by that word."""
        return {}

    def frequencies(self) -> dict[str, Tensor]:
        """Return by site how often each weight oscillates, in oscillations per step; empty where the method does not know."""
        return {}

    @final
    def layer_metrics(self) -> dict[str, dict[str, float]]:
        """Return the share of each mask, by its word, by site."""
        masks = [(site, word, mask) for word, by_site in self.masks().items() for site, mask in by_site.items()]
        figures: dict[str, dict[str, float]] = {}
        for (site, word, mask), count in zip(masks, _counts(mask for *_, mask in masks), strict=True):
            figures.setdefault(site, {})[word] = count / mask.numel()
        return figures

    def penalty(self, step: int | None = None) -> Tensor | None:
        """Return the differentiable term that the method would add to a loss, or None.

        Args:
            step: The optimizer step that the loss is for, counted from 1; None: the coming one.
        """
        del step
        return None

    def start(self) -> None:
        """Begin to watch; `attach` calls it once, before the first step."""
        return

    def before_step(self, step: int) -> None:
        """Add gradient terms.

        Args:
            step: The step about to be taken, counted from 1.
        """
        del step

    def after_step(self, step: int) -> None:
        """Track, freeze, restore.

        Args:
            step: The step just taken, counted from 1.
        """
        del step

    def state_dict(self) -> dict[str, Any]:
        """Return all state but pins (which are the model's), as references."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned, before or after `attach`; copies, onto the devices of the model.

        Args:
            state: A state dict of the same kind of method.

        Raises:
            CheckpointError: If it belongs to another method or model.
        """
        if "step" not in state:
            raise CheckpointError(f"{type(self).__name__}: a state with {sorted(state)} given, allowed: one with step")
        self.step = int(state["step"])

    @final
    def attach(self, optimizer: object) -> Self:
        """Ride on an optimizer: from now on the hooks run at each of its steps, and nothing else need be called.

        The first method on an optimizer also warns, one line each, of weight decay on scales and of learning rates too high for them.
        Under a gradient scaler, gradients are unscaled when `before_step` runs; where a fused optimizer unscales them itself,
        `gradient_scale` says by what. A closure of `step` runs first.

        Args:
            optimizer: A torch optimizer that holds the parameters of all quantizers, or Accelerate's wrapper of it.

        Returns:
            The method itself.

        Raises:
            PrepareError: If it is attached already, a weight quantizer has no range yet, the optimizer misses a quantizer's parameter,
                or it does not run step hooks.
        """
        if self.attached_to is not None:
            raise PrepareError(f"{type(self).__name__} is attached already; allowed: once")
        for site in weight_sites(self.model):
            if not site.quantizer.is_calibrated:
                raise PrepareError(f"attach: the weight quantizer of {site.name} has no range yet; calibrate first")
        stepping = stepping_optimizer(optimizer)
        check_holds_scales(stepping, self.model)
        self.start()
        self.attached_to = stepping
        if lift_scales(self.model, stepping):
            warn(Stepping(self.model, (stepping,)))
        ride(self, stepping)
        return self


def whole_share(masks: Mapping[str, Tensor]) -> float:
    """Return the fraction of all weights that are in the masks; 0 where there are no weights."""
    return sum(_counts(masks.values())) / max(1, sum(mask.numel() for mask in masks.values()))


def _counts(masks: Iterable[Tensor]) -> list[int]:
    """Count each mask; one transfer from the device for all."""
    sums = [mask.sum() for mask in masks]
    counts: list[int] = torch.stack(sums).tolist() if sums else []
    return counts
