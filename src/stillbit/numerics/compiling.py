"""Compiled twins of plain functions: made on the first call, one a key, given up for good where no compiler works."""

import functools
import logging
import types
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

_log = logging.getLogger("stillbit")
_compiler_works = True


def try_compiled(function: Callable[..., Result], key: Hashable, *arguments: Any) -> Result | None:
    """Runs the compiled twin of `function`.

    Args:
        function: A plain function of tensors, which never gives None.
        key: What is fixed in the compiled form; each key gets its own twin, so that none recompiles for another.
        arguments: What `function` is called with.

    Returns:
        What `function` gives, or None where no compiler works: then run `function` as it is written.
    """
    global _compiler_works
    if not _compiler_works or torch.compiler.is_compiling():
        return None
    try:
        result: Result = _twin(function, key)(*arguments)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        _compiler_works = False
        reason = str(error.inner_exception).splitlines()[0]
        _log.warning("no working compiler (%s): quantizers run in eager mode, with the same codes, slower", reason)
        return None
    return result


@functools.cache
def _twin(function: Callable[..., Result], key: Hashable) -> Callable[..., Result]:
    del key
    # Dynamo counts recompilations by code object and past a limit falls back to eager in silence: so each has its own.
    own = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    compiled: Callable[..., Result] = torch.compile(own, dynamic=True, fullgraph=True, options=_inductor_options())
    return compiled


@functools.cache
def _inductor_options() -> dict[str, Any]:
    """Asks for correctly rounded division on GPUs where this torch has the option; CPUs always do."""
    known = torch._inductor.list_options()
    return {name: True for name in ("eager_numerics.division_rounding",) if name in known}
