"""Fake quantization: value of the code of a latent, with the gradient that its quantizer asks for.

One `autograd.Function` serves every quantizer. It saves its input, which the surrounding layer mostly holds anyway, and recomputes the
rest in backward.

    >>> x = torch.tensor([-3.0, 0.2, 0.9], requires_grad=True)
    >>> scale = torch.tensor([0.5], requires_grad=True)
    >>> fake_quantize(x, Grid(scale, zero_point=0, shift=0.0, low=-2, high=1)).sum().backward()
    >>> x.grad                       # outside the grid the latent gets none
    tensor([0., 1., 0.])
    >>> scale.grad                   # -2 and 1 from the clipped ones, round(.4) - .4 from the one inside
    tensor([-1.4000])
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stillbit.numerics import kernels
from stillbit.numerics.grid import Grid, compute_dtype, zero_point_of
from stillbit.numerics.kernels import Variant
from stillbit.numerics.layout import layout
from stillbit.numerics.rounding import STE, Rounding, Stochastic
from stillbit.numerics.workspace import empty_values

_STE = STE()
_RECOMPUTE_FROM = 1 << 16  # elements; fewer are saved: computing them again would cost more than so few bytes are worth


def fake_quantize(
    x: Tensor,
    grid: Grid,
    *,
    pins: Tensor | None = None,
    clip: tuple[float, float] | None = None,
    rounding: Rounding = _STE,
    band: str = "rounded",
    scale_gradient_factor: float = 1.0,
    training: bool = True,
    recompute: bool = True,
) -> Tensor:
    """Gives the values of the codes of `x`, in its shape, dtype and memory order.

    Args:
        x: Latents, any floating dtype; the arithmetic runs in float32 (float64 for float64), under autocast too.
        grid: The grid; its scale and zero point may require gradients.
        pins: int8 tensor of the shape of `x`: the code that holds, or -128 where the latent decides. A pinned latent gets no
            gradient, but passes its share of the scale's gradient.
        clip: Limits that the latents are clipped to first, as ReLU and ReLU6 do: a latent on a limit or beyond gets no gradient.
        rounding: How the gradient passes the rounding.
        band: Which latents pass the gradient: "rounded", "position" or "open" (kernels.Variant).
        scale_gradient_factor: Multiplies the gradients to scale and zero point (LSQ, arXiv 1902.08153, section 2.2).
        training: Whether `Stochastic` rounding is random.
        recompute: Whether `values_recomputed` may compute these values again, rather than let an operation save them.

    Returns:
        Values, as `x`. The value of NaN is NaN, and so is the scale's gradient then.

    Raises:
        StillbitError: If the scale does not fit the latents' shape.
    """
    zero_point = zero_point_of(grid)
    value_zero_point = zero_point if grid.value_zero_point is None else grid.value_zero_point
    random = training and isinstance(rounding, Stochastic)
    clip_low, clip_high = clip or (None, None)
    limits = _Limits(grid.shift or None, float(grid.low), float(grid.high), clip_low, clip_high)
    options = _Options(rounding, band, random, recompute and not random, scale_gradient_factor, limits)
    output: Tensor = _FakeQuantize.apply(x, grid.scale, zero_point, value_zero_point, pins, options)
    return output


def values_recomputed(*values: Tensor) -> AbstractContextManager[Any]:
    """Lets operations in this context save none of these values for backward: there they are computed again, from the latents.

    The latents are saved in any case. So a layer that multiplies quantized tensors keeps as many bytes as a float one, for one more
    pass over them. A compiler decides by itself what to compute again; while one traces, this context does nothing.

    Args:
        values: What `fake_quantize` gave, or such values and a learned bias behind them (modules/shift.py). Other tensors, randomly
            rounded values, and small ones (below 65,536 elements, as most weights are), are saved as they are.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    recipes = {value.data_ptr(): _recipe(value.grad_fn) for value in values if value.numel() >= _RECOMPUTE_FROM}
    # Tensors without memory (empty, or on the meta device) all have the address 0.
    found = {address: recipe for address, recipe in recipes.items() if recipe is not None and address != 0}
    if not found:
        return nullcontext()

    surrounding: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)

    def pack(saved: Tensor) -> _Packed | _PackedAround | Tensor:
        recipe = found.get(saved.data_ptr())
        if recipe is not None:
            return _Packed(recipe, saved.size(), saved.stride(), int(saved.storage_offset()))
        if surrounding is None:
            return saved
        pack_around, unpack_around = surrounding
        return _PackedAround(pack_around(saved), unpack_around)

    return torch.autograd.graph.saved_tensors_hooks(pack, _unpack)


class _PackedAround(NamedTuple):
    """A tensor that is saved as the hooks around this context want it: activation checkpointing, saving on the CPU.

    Torch asks the innermost hooks alone.
    """

    packed: Any
    unpack: Callable[[Any], Tensor]


class _Recipe(NamedTuple):
    """How to compute values again: by their node, which is the context of the custom function, and a bias to be added."""

    # The node is an input of the operation that saves the values: to refer to it keeps nothing more alive.
    node: Any
    bias: Tensor | None = None
    bias_version: int = 0


class _Packed(NamedTuple):
    """A saved tensor as a view of values to be computed again: a linear layer saves its weight transposed."""

    recipe: _Recipe
    size: Sequence[int]
    stride: Sequence[int]
    offset: int


def _recipe(node: Any) -> _Recipe | None:
    options = getattr(node, "options", None)
    if isinstance(options, _Options):
        return _Recipe(node) if options.recompute else None
    if node is None or node.name() != "AddBackward0":
        return None
    (first, _), (second, _) = node.next_functions
    of_values, bias = _recipe(first), getattr(second, "variable", None)
    return None if of_values is None or bias is None else _Recipe(of_values.node, bias, bias._version)


def _unpack(packed: _Packed | _PackedAround | Tensor) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    if isinstance(packed, _PackedAround):
        return packed.unpack(packed.packed)
    node, bias, bias_version = packed.recipe
    if bias is not None and bias._version != bias_version:  # what autograd checks of tensors that it saves
        raise RuntimeError("a learned shift was modified by an inplace operation between forward and backward")
    x, scale, zero_point, pins, _ = node.unpacked = _saved_tensors(node)
    values, _ = _values(x, scale, zero_point, pins, node.options)
    with torch.no_grad():
        values = values if bias is None else values + bias
    return values.as_strided(packed.size, packed.stride, packed.offset)


def _saved_tensors(node: Any) -> Any:
    """Gives what a node has saved, read once: activation checkpointing gives each tensor back one single time."""
    return node.saved_tensors if node.unpacked is None else node.unpacked


class _Limits(NamedTuple):
    """The numbers that a kernel is told, in its order."""

    shift: float | None
    low: float
    high: float
    clip_low: float | None
    clip_high: float | None


class _Options(NamedTuple):
    rounding: Rounding
    band: str
    random: bool
    recompute: bool
    scale_gradient_factor: float
    limits: _Limits


def _values(x: Tensor, scale: Tensor, zero_point: Tensor | None, pins: Tensor | None, options: _Options) -> tuple[Tensor, Tensor | None]:
    """Gives the values, and the rounded positions of a random rounding."""
    seen, dtype = layout(x, scale), compute_dtype(x)
    view = seen.view(x)
    value, kept = kernels.run_into(
        empty_values if options.recompute else torch.empty_like,  # values that are saved would keep a block of the workspace
        kernels.forward,
        view,
        seen.view_scale(scale).to(dtype),
        None if zero_point is None else seen.view_scale(zero_point).to(dtype),
        None if pins is None else seen.view(pins),
        torch.rand_like(view, dtype=dtype) if options.random else None,
        *options.limits,
    )
    assert value is not None
    return seen.restore(value, x).data, kept  # not a view: PyTorch forbids `+=` on a view that a custom function gives, and models do it


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        value_zero_point: Tensor | None,
        pins: Tensor | None,
        options: _Options,
    ) -> Tensor:
        del value_zero_point  # equal numbers; it only takes its own gradient
        value, kept = _values(x, scale, zero_point, pins, options)
        ctx.save_for_backward(x, scale, zero_point, pins, kept)
        ctx.options, ctx.unpacked = options, None
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point, pins, kept = _saved_tensors(ctx)
        ctx.unpacked = None
        options: _Options = ctx.options
        seen, dtype = layout(x, scale), compute_dtype(x)
        to_latent, *to_grid = kernels.run_into(
            torch.empty_like if x.is_leaf else empty_values,  # the gradient of a parameter stays
            kernels.backward,
            seen.view(gradient),
            seen.view(x),
            seen.view_scale(scale).to(dtype),
            None if zero_point is None else seen.view_scale(zero_point).to(dtype),
            None if pins is None else seen.view(pins),
            kept,
            *options.limits,
            Variant(options.rounding, options.band, any(ctx.needs_input_grad[1:4]), seen.reduced),
        )
        assert to_latent is not None
        factor = options.scale_gradient_factor
        scaled = [
            None if each is None else seen.restore(each if factor == 1.0 else factor * each, scale).to(scale.dtype) for each in to_grid
        ]
        return seen.restore(to_latent, x), *scaled, None, None
