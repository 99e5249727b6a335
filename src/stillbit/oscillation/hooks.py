"""How methods ride on the optimizer that really steps: in an order of their own, once per real step.

Torch runs the step hooks of an optimizer once per real step: not for a micro-batch of an accumulated gradient, and not for a step that a
gradient scaler skips, unless the optimizer is fused and does the skipping itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim import Optimizer

from stillbit.errors import PrepareError
from stillbit.quantizers import LSQ, Quantizer

Closure = Callable[[], Any]


class Rider(Protocol):
    """What rides on an optimizer: a method."""

    order: ClassVar[int]
    model: nn.Module
    step: int
    gradient_scale: Tensor | float

    def before_step(self, step: int) -> None:
        """Add gradient terms for the step about to be taken."""

    def after_step(self, step: int) -> None:
        """Track, freeze or restore after the step just taken."""


@dataclass
class _Ride:
    riders: list[Rider] = field(default_factory=list)
    learned: dict[LSQ, None] = field(default_factory=dict)  # quantizers whose scales are stepped


_rides: WeakKeyDictionary[Optimizer, _Ride] = WeakKeyDictionary()


def lift_scales(model: nn.Module, optimizer: Optimizer) -> bool:
    """Let each real step end by lifting the model's scales to their floor, so that none drifts below what forward would use."""
    first = optimizer not in _rides
    if first:
        _rides[optimizer] = _Ride()
        optimizer.register_step_pre_hook(_before)
        optimizer.register_step_post_hook(_after)
    _rides[optimizer].learned |= {module: None for module in model.modules() if isinstance(module, LSQ)}
    return first


def ride(rider: Rider, optimizer: Optimizer) -> None:
    """Let a method ride on an optimizer, in its place among those that do; scales are lifted after it."""
    lift_scales(rider.model, optimizer)
    riders = _rides[optimizer].riders
    riders.append(rider)
    riders.sort(key=lambda one: one.order)


def _before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    riders = _rides[optimizer].riders
    if not riders or _skips_step(optimizer):
        return None
    for rider in riders:
        rider.gradient_scale = _gradient_scale(optimizer)

    def call() -> None:
        for rider in riders:
            rider.before_step(rider.step + 1)

    return _call_before_update(call, args, kwargs)


def _after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    del args, kwargs
    ride = _rides[optimizer]
    for rider in ride.riders:
        rider.gradient_scale = 1.0
    if _skips_step(optimizer):
        return
    for rider in ride.riders:
        rider.step += 1
        rider.after_step(rider.step)
    for quantizer in ride.learned:
        quantizer.lift_scale()


def innermost_optimizer(optimizer: object, where: str = "attach") -> Optimizer:
    """Return the torch optimizer in a wrapper that keeps it in `.optimizer` (Accelerate, Lightning), or the optimizer itself."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise PrepareError(f"{where}: {type(optimizer).__name__} given, allowed: a torch.optim.Optimizer")
    return optimizer


def stepping_optimizer(optimizer: object) -> Optimizer:
    """Return the optimizer whose hooks run at each step."""
    found = innermost_optimizer(optimizer)
    if not getattr(type(found).step, "hooked", False):
        name = type(found).__name__
        raise PrepareError(f"attach: {name} does not run torch's step hooks; allowed: an optimizer whose step does, without {name}")
    return found


def check_holds_scales(optimizer: Optimizer, model: nn.Module) -> None:
    """Check that the optimizer trains every trainable parameter of the model's quantizers."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [
        f"{name}.{kind}"
        for name, module in model.named_modules()
        if isinstance(module, Quantizer)
        for kind, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad and id(parameter) not in held
    ]
    if missing:
        raise PrepareError(
            f"attach: the optimizer misses {len(missing)} quantizer parameters, first {missing[0]}; "
            "build it after prepare, from weights(model) and scales(model)"
        )


def _skips_step(optimizer: Optimizer) -> bool:
    """Return whether a fused optimizer, whose hooks run nevertheless, skips this step because a gradient overflowed."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def _gradient_scale(optimizer: Optimizer) -> Tensor | float:
    """Return what gradients are multiplied by at this step: not 1 where a fused optimizer undoes a gradient scaler's factor itself."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else scale


def _call_before_update(call: Closure, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Call `call` when the gradients of this step are there: now, or after the step's closure, which computes them.

    Returns:
        Arguments for `step` with a closure that ends by `call`; None where there is no closure.
    """
    closure: Closure | None = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        call()
        return None

    def closure_and_call() -> Any:
        loss = closure()
        call()
        return loss

    if len(args) > 1:
        return (args[0], closure_and_call, *args[2:]), kwargs
    return args, {**kwargs, "closure": closure_and_call}
