"""Compiled twins of plain functions: made on the first call, one a kind of arguments, given up for good where no compiler works."""

import functools
import logging
import types
from collections.abc import Callable, Hashable
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
    kinds = tuple(_kind(argument) for argument in arguments)
    bare = [_bare(argument) for argument in arguments]
    try:
        result: Result = _twin(function, kinds, torch.is_inference_mode_enabled(), _autocast(bare))(*bare)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        _compiler_works = False
        reason = str(error.inner_exception).splitlines()[0]
        _log.warning("no working compiler (%s): quantizers run in eager mode, with the same codes, slower", reason)
        return None
    return result


def _kind(argument: Any) -> Hashable:
    if isinstance(argument, Tensor):
        return argument.dtype, argument.device.type, argument.is_inference(), tuple(size == 1 for size in argument.shape)
    return float if isinstance(argument, float) else argument


def _bare(argument: Any) -> Any:
    """Gives what a compiled function gets for an argument, so that it guards nothing but its kind."""
    if isinstance(argument, Tensor):
        return argument.data  # else it also guards the tensor that a view was taken of, and its gradient
    if isinstance(argument, float):
        # Inductor of torch 2.9 compiles once more for each float that reaches `clamp`, and raises after eight; tensors it takes as they
        # come. On the CPU, whatever the device: no transfer waits for an accelerator, a compiler passes the number to its kernel.
        return _scalar(argument)
    return argument


@functools.cache
def _scalar(value: float) -> Tensor:
    """Gives one tensor a number, made once; the limits of grids are few."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=torch.float64, device="cpu")


def _autocast(arguments: list[Any]) -> Hashable:
    device = next(argument.device.type for argument in arguments if isinstance(argument, Tensor))
    available = torch.amp.is_autocast_available(device)  # not on the meta device
    return torch.get_autocast_dtype(device) if available and torch.is_autocast_enabled(device) else None


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
