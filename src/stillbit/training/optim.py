"""One optimizer object for weights and scales, and how it is built from a configuration.

The published recipe trains weights by SGD and quantizer scales by Adam. Two optimizer objects in one loop break step
hooks, gradient scalers (each checks overflow alone, so one may step where the other skips) and the check that no scale
is missing. `JointOptimizer` gives the loop a single object.
"""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from stillbit.errors import RecipeError
from stillbit.training.rates import ScheduleConfig


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers that act as one: one step, one pair of hooks, one overflow check, one state dict.

    The parameter groups are the parts' own dictionaries, so a learning rate that is set here holds there.

    Args:
        parts: Optimizers over disjoint parameters. They step in this order.

    Raises:
        ValueError: If no part is given, or a parameter belongs to two of them.

    Examples:
        >>> weight, scale = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
        >>> optimizer = JointOptimizer(torch.optim.SGD([weight], lr=0.1), torch.optim.Adam([scale], lr=1e-5))
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 1e-05]
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        if not parts:
            raise ValueError("JointOptimizer: 0 parts given, allowed: 1 or more optimizers")
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], defaults={})
        self.defaults = _common_defaults(parts)  # not given above, where it would fill each part's groups by the others' options
        self._join()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take up a group of one of the parts; a group that no part steps is refused.

        Args:
            param_group: A dictionary out of a part's `param_groups`.

        Raises:
            ValueError: If the group belongs to no part.
        """
        if not any(param_group is group for part in self.parts for group in part.param_groups):
            raise ValueError("JointOptimizer: the group belongs to no part; add it to a part first")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every part once.

        Args:
            closure: Computes the loss and its gradients; called once, before any part steps, and by parts that need one (LBFGS) as often as
                they do.

        Returns:
            What the closure returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            if closure is not None and _needs_closure(part):
                part.step(closure)
            else:
                part.step()
        self._join()  # a part creates its state at its first step
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state dicts of the parts, in order.

        Returns:
            `{"parts": [...]}`.
        """
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Args:
            state_dict: State of as many parts as this optimizer has.

        Raises:
            ValueError: If the number of parts differs, or a part's groups do.
        """
        states = state_dict["parts"]
        if len(states) != len(self.parts):
            raise ValueError(f"optimizer state: {len(states)} parts given, allowed: {len(self.parts)}")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self._join()  # loading replaces the parts' dictionaries

    def _join(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state = defaultdict(dict)
        for part in self.parts:
            self.state.update(part.state)


def _common_defaults(parts: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Merge defaults, the first part's before others'. Schedules take from them which of momentum and betas all groups have."""
    merged = {name: value for part in reversed(parts) for name, value in part.defaults.items()}
    if not all("betas" in part.defaults for part in parts):
        merged.pop("betas", None)
    return merged


def _needs_closure(part: torch.optim.Optimizer) -> bool:
    parameter = inspect.signature(type(part).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its learning rate schedule.

    Args:
        name: `sgd`, `adam`, `adamw` (torch's own), or the name of any timm optimizer.
        lr: Learning rate at the beginning of the schedule.
        momentum: Of SGD and of timm optimizers that have one.
        weight_decay: Acts on every weight; on scales only in a `scale_optimizer` of their own.
        decay_norms: Whether it also acts on biases, norms, tokens, position embeddings and learned shifts
            (`stillbit.prepare.undecayed`): true as published for convolutional networks, false for vision transformers.
        nesterov: Nesterov momentum; `sgd` only.
        betas: Of Adam's family; None means the optimizer's own.
        schedule: How the learning rate moves.

    Raises:
        RecipeError: If a value is out of range or does not belong to the optimizer.
    """

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_norms: bool = True
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        for name, given in (("lr", self.lr), ("momentum", self.momentum), ("weight_decay", self.weight_decay)):
            if not math.isfinite(given) or given < 0.0:
                raise RecipeError(f"{name} is {given}; allowed: a finite number of at least 0")
        if self.nesterov and self.name != "sgd":
            raise RecipeError(f"nesterov is true with {self.name}; allowed: with sgd")
        if self.betas is not None and (len(self.betas) != 2 or self.name == "sgd"):
            raise RecipeError(f"betas is {list(self.betas)} with {self.name}; allowed: two numbers, with adam and the like")


def build_optimizer(
    weights: Sequence[nn.Parameter],
    scales: Sequence[nn.Parameter],
    optimizer: OptimizerConfig,
    scale_optimizer: OptimizerConfig | None = None,
    *,
    undecayed: Sequence[nn.Parameter] = (),
) -> JointOptimizer:
    """Build the optimizer of a run: one part for the weights, one for the scales."""
    parts = [_build_part(_groups(weights, () if optimizer.decay_norms else undecayed), optimizer)]
    if scales:
        parts.append(_build_part(_groups(scales), scale_optimizer or replace(optimizer, weight_decay=0.0)))
    return JointOptimizer(*parts)


def group_schedules(
    built: JointOptimizer, optimizer: OptimizerConfig, scale_optimizer: OptimizerConfig | None = None
) -> tuple[ScheduleConfig, ...]:
    """Return the schedule of each parameter group: that of the settings that its part was built from.

    Returns:
        One schedule a group.
    """
    settings = (optimizer, scale_optimizer or optimizer)[: len(built.parts)]
    return tuple(one.schedule for one, part in zip(settings, built.parts, strict=True) for _ in part.param_groups)


def check_complete(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Check that the optimizer holds every trainable parameter of the model, scales above all."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if missing:
        raise RecipeError(
            f"optimizer: misses {len(missing)} trainable parameters, first {missing[0]}; "
            "build it after prepare, from weights(model) and scales(model)"
        )


def _groups(parameters: Sequence[nn.Parameter], undecayed: Sequence[nn.Parameter] = ()) -> list[dict[str, Any]]:
    apart = {id(parameter) for parameter in undecayed}
    groups: list[dict[str, Any]] = [{"params": [parameter for parameter in parameters if id(parameter) not in apart]}]
    if apart:
        groups.append({"params": list(undecayed), "weight_decay": 0.0})
    return groups


def _build_part(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.betas is not None:
        shared["betas"] = config.betas
    if config.name == "sgd":  # timm's "sgd" is Nesterov; the published recipe is not
        return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **shared)
    if config.name == "adam":
        return torch.optim.Adam(groups, **shared)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, **shared)
    return _build_timm_part(groups, config, shared)


def _build_timm_part(groups: list[dict[str, Any]], config: OptimizerConfig, shared: dict[str, Any]) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2, list_optimizers

    if config.name not in list_optimizers():  # excludes lookahead_*, whose step runs no hooks
        raise RecipeError(f"optimizer name is {config.name!r}; allowed: sgd, adam, adamw, or a timm optimizer")
    built = create_optimizer_v2(groups, opt=config.name, momentum=config.momentum, filter_bias_and_bn=False, **shared)
    assert isinstance(built, torch.optim.Optimizer)
    return built
