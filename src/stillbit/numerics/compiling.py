"""Compiled twins of plain functions: made on the first call, one a kind of arguments, given up for good where no compiler works."""

import functools
import logging
import types
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

_log = logging.getLogger("stillbit")
_compiler_works = True


def try_compiled(function: Callable[..., Result], *arguments: Any) -> Result | None:
    """Runs the compiled twin of `function`.

    Each kind of arguments gets its own twin, so that none recompiles for another: what a compiler specializes on (dtype, device, number
    of axes, axes of size 1, None, autocast, inference mode) tells kinds apart, what it need not (sizes, floats) does not.

    Args:
        function: A plain function, which never gives None.
        arguments: What `function` is called with: tensors, floats (which it may get as tensors of no axis), None, and hashable values
            that are fixed in the compiled form.

    Returns:
        What `function` gives, or None where no compiler works: then run `function` as it is written.
    """
    global _compiler_works
    if not _compiler_works or torch.compiler.is_compiling():
        return None
    kinds: list[Hashable] = []
    bare: list[Any] = []
    for argument in arguments:  # one plain loop: every quantizer of a model comes by here, in every step
        if argument is None:
            kinds.append(None)
            bare.append(None)
        elif isinstance(argument, Tensor):
            kinds.append((argument.dtype, argument.device.type, argument.is_inference(), tuple([size == 1 for size in argument.shape])))
            bare.append(argument.data)  # else a compiled function also guards the tensor that a view was taken of, and its gradient
        elif isinstance(argument, float):
            # Inductor of torch 2.9 compiles once more for each float that reaches `clamp`, and raises after eight; tensors it takes as
            # they come. On the CPU, whatever the device: no transfer waits for an accelerator, a compiler passes the number to its kernel.
            kinds.append(float)
            bare.append(_scalar(argument))
        else:
            kinds.append(argument)
            bare.append(argument)
    try:
        result: Result = _twin(function, tuple(kinds), torch.is_inference_mode_enabled(), _autocast(arguments))(*bare)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        _compiler_works = False
        reason = str(error.inner_exception).splitlines()[0]
        _log.warning("no working compiler (%s): quantizers run in eager mode, with the same codes, slower", reason)
        return None
    return result


@functools.cache
def _scalar(value: float) -> Tensor:
    """Gives one tensor a number, made once; the limits of grids are few."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=torch.float64, device="cpu")


def _autocast(arguments: Sequence[Any]) -> Hashable:
    device = next(argument.device.type for argument in arguments if isinstance(argument, Tensor))
    return torch.get_autocast_dtype(device) if _has_autocast(device) and torch.is_autocast_enabled(device) else None


@functools.cache
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)  # not the meta device


@functools.cache
def _twin(function: Callable[..., Result], *fixed: Hashable) -> Callable[..., Result]:
    del fixed
    # Dynamo counts recompilations by code object and past a limit falls back to eager in silence: so each has its own.
    own = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    compiled: Callable[..., Result] = torch.compile(own, dynamic=True, fullgraph=True, options=_inductor_options())
    return compiled


@functools.cache
def _inductor_options() -> dict[str, Any]:
    """Asks for correctly rounded division on GPUs where this torch has the option; CPUs always do."""
    known = torch._inductor.list_options()
    return {name: True for name in ("eager_numerics.division_rounding",) if name in known}
