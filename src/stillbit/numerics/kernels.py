"""The arithmetic of fake quantization, once: plain functions that run as written (the eager twin) or compiled.

Each kernel sees canonical views only (layout.py): `(numel)` where one scale serves all, else `(outer, scale, inner)`. So a handful of
compiled variants serves every layer of every model; compiled by layer shape, MobileNetV2 alone would need 59.
"""

import functools
import logging
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillbit.numerics.rounding import Rounding

FREE = -128  # the entry of a pin tensor that pins nothing
BANDS = ("rounded", "position", "open")

_COMPILE_FROM = 1 << 16  # elements; below, the call costs more than the arithmetic
_log = logging.getLogger("stillbit")
_compiler_works = True


class Variant(NamedTuple):
    """What is fixed in a kernel when it is compiled.

    Attributes:
        rounding: The rounding estimator.
        band: Which latents pass the gradient: "rounded" those whose rounded position lies on the grid (published CNN code: half a
            step wider than LSQ), "position" those whose position does (LSQ), "open" all (StatsQ).
        grid_gradient: Whether the gradients to scale and zero point are wanted.
        reduced: Axes of the canonical view that share a scale.
    """

    rounding: Rounding
    band: str
    grid_gradient: bool
    reduced: tuple[int, ...]


def forward(
    variant: Variant,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    noise: Tensor | None,
    shift: float,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor | None]:
    """Gives the values of the latents' codes and, when rounding was random, the rounded positions that backward needs."""
    del variant
    position = _position(x, scale, shift)
    rounded = torch.round(position) if noise is None else torch.floor(position + noise)
    code = _code(rounded, zero_point, pins, low, high)
    offset = code if zero_point is None else code - zero_point
    value = scale * (offset + shift if shift else offset)
    # Positions beyond the int16 range are far off any grid of at most 8 bits: clamping keeps which side they are on.
    kept = None if noise is None else rounded.clamp(-32768, 32767).to(torch.int16)
    return value.to(x.dtype), kept


def backward(
    variant: Variant,
    gradient: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    kept: Tensor | None,
    shift: float,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gives the gradients to latent, scale, and the two uses of the zero point (codes, values), in closed form (cnn spec 1.5)."""
    position = _position(x, scale, shift)
    rounded = torch.round(position) if kept is None else kept.to(position.dtype)
    g = gradient.to(position.dtype)
    passed = _passed(variant.band, g, position, rounded, zero_point, pins, low, high)
    to_position = variant.rounding.factor(position, passed) * passed
    to_latent = to_position.to(x.dtype)
    if not variant.grid_gradient:
        return to_latent, None, None, None
    code = _code(rounded, zero_point, pins, low, high)
    offset = code if zero_point is None else code - zero_point
    to_scale = torch.sum(g * (offset + shift) - to_position * (position + shift), variant.reduced, keepdim=True)
    if zero_point is None:
        return to_latent, to_scale, None, None
    to_code_zero = scale * torch.sum(passed, variant.reduced, keepdim=True)
    to_value_zero = -scale * torch.sum(g, variant.reduced, keepdim=True)
    return to_latent, to_scale, to_code_zero, to_value_zero


def _position(x: Tensor, scale: Tensor, shift: float) -> Tensor:
    quotient = x.to(scale.dtype) / scale
    return quotient - shift if shift else quotient


def _code(rounded: Tensor, zero_point: Tensor | None, pins: Tensor | None, low: float, high: float) -> Tensor:
    code = (rounded if zero_point is None else rounded + zero_point).clamp(low, high)
    return code if pins is None else torch.where(pins == FREE, code, pins.to(code.dtype))


def _passed(
    band: str,
    gradient: Tensor,
    position: Tensor,
    rounded: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    low: float,
    high: float,
) -> Tensor:
    """Gives the gradient where it passes to the latent, else 0."""
    passed = gradient
    if band != "open":
        tested = rounded if band == "rounded" else position
        tested = tested if zero_point is None else tested + zero_point
        passed = torch.where((tested >= low) & (tested <= high), passed, 0.0)
    return passed if pins is None else torch.where(pins == FREE, passed, 0.0)


Kernel = Callable[..., tuple[Tensor | None, ...]]


def run(kernel: Kernel, variant: Variant, x: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    """Runs `kernel`, compiled where that pays and a compiler is there, with the same codes either way.

    Args:
        kernel: `forward` or `backward`.
        variant: What is fixed in the compiled form.
        x: The kernel's first tensor, a canonical view.
        arguments: The kernel's other arguments.

    Returns:
        What the kernel gives.
    """
    global _compiler_works
    if not _compiler_works or x.numel() < _COMPILE_FROM or torch.compiler.is_compiling():
        return kernel(variant, x, *arguments)
    given = tuple(argument is not None for argument in arguments)
    try:
        return _compiled(kernel, variant, x.dtype, given)(variant, x, *arguments)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        _compiler_works = False
        reason = str(error.inner_exception).splitlines()[0]
        _log.warning("no working compiler (%s): fake quantization runs in eager mode, with the same codes, slower", reason)
        return kernel(variant, x, *arguments)


@functools.cache
def _compiled(kernel: Kernel, variant: Variant, dtype: torch.dtype, given: tuple[bool, ...]) -> Kernel:
    del variant, dtype, given  # each combination gets its own compiled function, and never recompiles for another
    # Dynamo counts recompilations by code object and past a limit falls back to eager in silence: so each has its own.
    own = types.FunctionType(kernel.__code__.replace(), kernel.__globals__, kernel.__name__)
    return torch.compile(own, dynamic=True, fullgraph=True, options=_inductor_options())


@functools.cache
def _inductor_options() -> dict[str, Any]:
    """Asks for correctly rounded division on GPUs where this torch has the option; CPUs always do."""
    known = torch._inductor.list_options()
    return {name: True for name in ("eager_numerics.division_rounding",) if name in known}
