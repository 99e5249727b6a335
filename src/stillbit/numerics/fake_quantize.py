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

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stillbit.numerics import kernels
from stillbit.numerics.fast import Limits, Options, canonical, gelu_to_repeat, quantized_values, run, run_into, saved_tensors
from stillbit.numerics.grid import Grid, zero_point_of
from stillbit.numerics.kernels import Variant
from stillbit.numerics.layout import Layout, layout, shifts
from stillbit.numerics.limits import compute_dtype
from stillbit.numerics.rounding import STE, Rounding, Stochastic

_STE = STE()


def fake_quantize(
    x: Tensor,
    grid: Grid,
    *,
    value_zero_point: Tensor | None = None,
    pins: Tensor | None = None,
    clip: tuple[float, float] | None = None,
    before: Tensor | None = None,
    after: Tensor | None = None,
    rounding: Rounding = _STE,
    ste_range: str = "rounded",
    scale_gradient_factor: float = 1.0,
    training: bool = True,
    recompute: bool = True,
) -> Tensor:
    """Return the values of the codes of `x`, in its shape, dtype and memory order.

    Args:
        x: Latents, any floating dtype; the arithmetic runs in float32 (float64 for float64), under autocast too.
        grid: The grid; its scale and zero point may require gradients.
        value_zero_point: A second evaluation of the grid's zero point, of equal numbers, which takes the gradient of the step from code to
            value; None: the same one. The published gradient of asymmetric quantizers needs it (docs/spec/cnn.md, 1.5).
        pins: int8 tensor of the shape of `x`: the code that holds, or -128 where the latent decides. A pinned latent gets no
            gradient, but passes its share of the scale's gradient.
        clip: Limits that the latents are clipped to first, as ReLU and ReLU6 do: a latent on a limit or beyond gets no gradient.
        before: Learned shift, which broadcasts against `x` and is added to it first; not together with `clip`.
        after: Learned shift that is added to the values.
        rounding: How the gradient passes the rounding.
        ste_range: Which latents pass the gradient: "rounded", "position" or "open" (kernels.Variant).
        scale_gradient_factor: Multiplies the gradients to scale and zero point (LSQ, arXiv 1902.08153, section 2.2).
        training: Whether `Stochastic` rounding is random.
        recompute: Whether `values_recomputed` may compute these values again, rather than let an operation save them.

    Returns:
        Values, as `x`. The value of NaN is NaN, and so is the scale's gradient then.

    Raises:
        StillbitError: If the scale does not fit the latents' shape.
    """
    zero_point = zero_point_of(grid)
    value_zero_point = zero_point if value_zero_point is None else value_zero_point
    random = training and isinstance(rounding, Stochastic)
    clip_low, clip_high = clip or (None, None)
    limits = Limits(grid.shift or None, float(grid.low), float(grid.high), clip_low, clip_high)
    options = Options(rounding, ste_range, random, recompute and not random, scale_gradient_factor, limits)
    tensors = x, grid.scale, zero_point, value_zero_point, before, after, pins
    output: Tensor = _FakeQuantize.apply(*tensors, options, gelu_to_repeat(x) if options.recompute else None)
    return output


def fake_quantize_by_mean(
    x: Tensor, scale_shape: tuple[int, ...], low: int, *, pins: Tensor | None = None, recompute: bool = True
) -> Tensor:
    """Do what `fake_quantize` does with ste_range "open" on the grid of StatsQ, whose scale follows from the latents, in one pass."""
    limits = Limits(0.5, float(low), float(-low - 1), None, None)
    options = Options(_STE, "open", False, recompute, 1.0, limits)
    output: Tensor = _FakeQuantizeByMean.apply(x, scale_shape, pins, options)
    return output


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        value_zero_point: Tensor | None,
        before: Tensor | None,
        after: Tensor | None,
        pins: Tensor | None,
        options: Options,
        gelu: Any,
    ) -> Tensor:
        del value_zero_point  # equal numbers; it only takes its own gradient
        value, kept = quantized_values(x, scale, zero_point, pins, before, after, options)
        ctx.save_for_backward(None if gelu is not None else x, scale, zero_point, pins, before, after, kept)
        ctx.options, ctx.unpacked, ctx.gelu = options, None, gelu
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point, pins, before, after, kept = saved_tensors(ctx)
        ctx.unpacked = None
        options: Options = ctx.options
        seen, dtype = layout(x, scale, shifts(before, after)), compute_dtype(x)
        view = seen.view(gradient).contiguous()  # a product may give it transposed, which a kernel would read across the grain
        wide = before is not None and dtype != x.dtype
        # Not the shift of the values, on which no gradient to a latent or a grid depends.
        grid, around = canonical(seen, dtype, scale, zero_point, before, None, options.limits)
        to_latent, *to_grid = run_into(
            partial(torch.empty_like, dtype=dtype) if wide else torch.empty_like,
            kernels.backward,
            view,
            seen.view(x),
            grid,
            None if pins is None else seen.view(pins),
            kept,
            around,
            Variant(options.rounding, options.ste_range, any(ctx.needs_input_grad[1:4]), seen.reduced),
        )
        assert to_latent is not None
        factor = options.scale_gradient_factor
        scaled = [
            None if each is None else seen.restore(each if factor == 1.0 else factor * each, scale).to(scale.dtype) for each in to_grid
        ]
        to_before = None if before is None else _to_shift(to_latent, before, 0, seen)
        to_after = None if after is None else _to_shift(view.to(dtype), after, -1, seen)
        return seen.restore(to_latent.to(x.dtype), x), *scaled, to_before, to_after, None, None, None


def _to_shift(gradient: Tensor, shift: Tensor, number: int, seen: Layout) -> Tensor:
    """Sum a gradient, a canonical view, over the axes along which a shift does not vary."""
    shape = seen.shift_shapes[number]
    axes = [axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1]
    summed = gradient.sum(axes, keepdim=True) if axes else gradient
    return seen.restore_shift(summed, shift).to(shift.dtype)


class _FakeQuantizeByMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale_shape: tuple[int, ...], pins: Tensor | None, options: Options) -> Tensor:
        like_scale = x.new_empty(scale_shape)
        seen = layout(x, like_scale)
        pinned, limits = None if pins is None else seen.view(pins), options.limits
        value, scale = run(kernels.forward_by_mean, seen.view(x), pinned, seen.reduced, limits.low, limits.high)
        assert value is not None
        assert scale is not None
        # As `_FakeQuantize` saves them, so that values are computed again alike.
        latent, scale = (x, seen.restore(scale, like_scale)) if options.recompute else (None, None)
        ctx.save_for_backward(latent, scale, None, pins, None, None, None)
        ctx.options, ctx.unpacked, ctx.gelu = options, None, None
        return seen.restore(value, x).data

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pins = saved_tensors(ctx)[3]
        ctx.unpacked = None
        if pins is None:
            return gradient, None, None, None
        seen = layout(gradient, gradient.new_empty(1))
        (free,) = run(kernels.pass_free, seen.view(gradient), seen.view(pins))
        assert free is not None
        return seen.restore(free, gradient), None, None, None
