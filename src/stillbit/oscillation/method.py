"""The base of oscillation methods: small objects that are told the time and see nothing but weight sites."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stillbit.errors import CheckpointError, PrepareError
from stillbit.oscillation.hooks import call_before_update, check_holds_scales, gradient_scale, skips_step, stepping_optimizer
from stillbit.quantizers import weight_sites


class Method(ABC):
    """Something that watches or treats oscillating weights, once an optimizer step. Every hook does nothing by default.

    Args:
        model: A prepared model.

    Attributes:
        model: The model.
        step: Optimizer steps seen since `attach`; skipped ones are not counted.
        attached_to: The optimizer whose steps it sees; None before `attach`.
        gradient_scale: What `before_step` multiplies a gradient by that it adds; not 1 only while a fused optimizer steps under a
            gradient scaler.
        watches_only: Whether it changes nothing, so that other libraries' layers suit it too.

    Raises:
        PrepareError: If the model has no quantized weight, or one that can only be watched.
    """

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
        """Gives figures of the whole model, computed when asked; shares are fractions of 1."""

    def masks(self) -> dict[str, dict[str, Tensor]]:
        """Gives which weights are as the method knows them to be (`oscillating`, `frozen`, `free`): bool tensors by site, by that word."""
        return {}

    def frequencies(self) -> dict[str, Tensor]:
        """Gives by site how often each weight oscillates, in oscillations a step; empty where the method does not know."""
        return {}

    @final
    def layer_metrics(self) -> dict[str, dict[str, float]]:
        """Gives the share of each mask, by its word, by site."""
        masks = [(site, word, mask) for word, by_site in self.masks().items() for site, mask in by_site.items()]
        figures: dict[str, dict[str, float]] = {}
        for (site, word, mask), count in zip(masks, _counts(mask for *_, mask in masks), strict=True):
            figures.setdefault(site, {})[word] = count / mask.numel()
        return figures

    def penalty(self, step: int | None = None) -> Tensor | None:
        """Gives the differentiable term that the method would add to a loss, or None.

        Args:
            step: The optimizer step that the loss is for, counted from 1; None: the coming one.
        """
        del step
        return None

    def start(self) -> None:
        """Begins to observe; `attach` calls it once, before the first step."""
        return

    def before_step(self, step: int) -> None:
        """Adds gradient terms.

        Args:
            step: The step about to be taken, counted from 1.
        """
        del step

    def after_step(self, step: int) -> None:
        """Tracks, pins, restores.

        Args:
            step: The step just taken, counted from 1.
        """
        del step

    def state_dict(self) -> dict[str, Any]:
        """Gives all state but pins (which are the model's), as references."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave, before or after `attach`; copies, onto the devices of the model.

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
        """Rides on an optimizer: from now on the hooks run at each of its steps, and nothing else need be called.

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
        stepping.register_step_pre_hook(self._before_optimizer)
        stepping.register_step_post_hook(self._after_optimizer)
        self.attached_to = stepping
        return self

    def _before_optimizer(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if skips_step(optimizer):
            return None
        self.gradient_scale = gradient_scale(optimizer)
        return call_before_update(lambda: self.before_step(self.step + 1), args, kwargs)

    def _after_optimizer(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del args, kwargs
        self.gradient_scale = 1.0
        if skips_step(optimizer):
            return
        self.step += 1
        self.after_step(self.step)


def whole_share(masks: Mapping[str, Tensor]) -> float:
    """Gives the fraction of all weights that are in the masks; 0 where there are no weights."""
    return sum(_counts(masks.values())) / max(1, sum(mask.numel() for mask in masks.values()))


def _counts(masks: Iterable[Tensor]) -> list[int]:
    """Counts each mask; one transfer from the device for all."""
    sums = [mask.sum() for mask in masks]
    counts: list[int] = torch.stack(sums).tolist() if sums else []
    return counts
