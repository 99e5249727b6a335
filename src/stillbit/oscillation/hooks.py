"""How a method finds the optimizer that really steps, and what that step is asked to do for it.

Torch runs the step hooks of an optimizer once a real step: not for a micro-batch of an accumulated gradient, and not for a step that a
gradient scaler skips, unless the optimizer is fused and does the skipping itself.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stillbit.errors import PrepareError
from stillbit.quantizers import Quantizer

Closure = Callable[[], Any]


def stepping_optimizer(optimizer: object) -> Optimizer:
    """Finds the optimizer whose hooks run at each step.

    Args:
        optimizer: A torch optimizer, or a wrapper that keeps it in `.optimizer` and calls its `step` (Accelerate, Lightning).

    Returns:
        The innermost optimizer.

    Raises:
        PrepareError: If it is no torch optimizer, or its `step` does not run torch's hooks (timm's Lookahead).
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise PrepareError(f"attach: {name} given, allowed: a torch.optim.Optimizer")
    if not getattr(type(optimizer).step, "hooked", False):
        raise PrepareError(f"attach: {name} does not run torch's step hooks; allowed: an optimizer whose step does, without {name}")
    return optimizer


def check_holds_scales(optimizer: Optimizer, model: nn.Module) -> None:
    """Checks that the optimizer trains every trainable parameter of the model's quantizers.

    Args:
        optimizer: The optimizer.
        model: The model.

    Raises:
        PrepareError: If it misses one; the message names the first.
    """
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


def skips_step(optimizer: Optimizer) -> bool:
    """Says whether a fused optimizer, whose hooks run nevertheless, skips this step because a gradient overflowed."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def gradient_scale(optimizer: Optimizer) -> Tensor | float:
    """Gives what gradients are multiplied by at this step: not 1 where a fused optimizer undoes a gradient scaler's factor itself."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else scale


def call_before_update(call: Closure, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Calls `call` when the gradients of this step are there: now, or after the step's closure, which computes them.

    Args:
        call: What to call.
        args: Positional arguments of `step`, the optimizer itself first.
        kwargs: Keyword arguments of `step`.

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
