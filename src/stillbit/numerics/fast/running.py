"""A kernel, compiled where that pays and a compiler is there, with the same codes either way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stillbit.numerics.fast.compiling import try_compiled
from stillbit.numerics.fast.thresholds import settings

Kernel = Callable[..., tuple[Tensor | None, ...]]


def run(kernel: Kernel, x: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
    """Run a kernel.

    Args:
        kernel: A plain function of canonical views (layout.py), as those of kernels.py.
        x: Its first tensor, or a named tuple that begins with that.
        arguments: Its other arguments, named tuples among them.
    """
    first: Tensor = x[0] if isinstance(x, tuple) else x
    if first.numel() >= settings.compile_from:
        compiled = try_compiled(kernel, x, *arguments)
        if compiled is not None:
            return compiled
    return kernel(x, *arguments)


def run_into(room: Callable[[Tensor], Tensor], kernel: Kernel, x: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    """Run a kernel whose first result is like `x`; where it is compiled, write that result into memory that `room` makes."""
    if x.numel() >= settings.compile_from and not torch.compiler.is_compiling():
        first = room(x)
        others = try_compiled(_write, kernel, first, x, *arguments)
        if others is not None:
            return first, *others
    return kernel(x, *arguments)


def _write(kernel: Kernel, room: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    first, *others = kernel(*arguments)
    assert first is not None
    room.copy_(first)
    return tuple(others)
