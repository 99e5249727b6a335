"""Canonical views: how a tensor and its scale look to a kernel.

A scale of one element makes a flat view `(numel)`. A scale that varies along one axis (or along several neighbouring axes) makes a
view `(outer, scale, inner)`. Neither moves data where the tensor is dense in any memory order (contiguous, channels-last).

    x (64, 3, 3, 3), scale (1)              -> x (1728),          scale (1)
    x (64, 3, 3, 3), scale (64, 1, 1, 1)    -> x (1, 64, 27),     scale (1, 64, 1)
    x (8, 197, 192), scale (1, 197, 1)      -> x (8, 197, 192),   scale (1, 197, 1)

Learned shifts vary along axes of their own. With them, neighbouring axes are one where the same tensors vary along them.

    x (8, 14, 14, 64), scale (1), shift (64)                -> x (1568, 64),       shift (1, 64)
    x (8, 197, 3, 64), scale (1, 197, 3, 1), shift (3, 64)  -> x (8, 197, 3, 64),  shift (1, 1, 3, 64)

While a whole model is being compiled tensors stay as they are: its compiler knows every shape, and keeps the memory order itself.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stillbit.errors import StillbitError


class Layout(NamedTuple):
    """How a tensor is seen by a kernel.

    Attributes:
        order: Permutation of the axes into memory order; None where the tensor already is in it.
        shape: The canonical shape.
        scale_shape: The scale's canonical shape.
        reduced: Axes of the canonical view that share a scale.
        shift_shapes: The canonical shape of each shift.
    """

    order: tuple[int, ...] | None
    shape: tuple[int, ...]
    scale_shape: tuple[int, ...]
    reduced: tuple[int, ...]
    shift_shapes: tuple[tuple[int, ...], ...] = ()

    def view(self, x: Tensor) -> Tensor:
        """Return `x` in the canonical shape; copy only if its memory order is another one."""
        ordered = x if self.order is None else x.permute(self.order)
        return ordered.reshape(self.shape)

    def view_scale(self, scale: Tensor) -> Tensor:
        """Return a tensor of the scale's shape in canonical form."""
        ordered = scale if self.order is None or scale.numel() == 1 else scale.permute(self.order)
        return ordered.reshape(self.scale_shape)

    def restore(self, canonical: Tensor, like: Tensor) -> Tensor:
        """Undo `view` and `view_scale`: return the shape of `like` and, to a latent, its memory order."""
        if self.order is None or like.numel() == 1:
            return canonical.reshape(like.shape)
        ordered = canonical.reshape([like.shape[axis] for axis in self.order])
        inverse = sorted(range(like.dim()), key=self.order.__getitem__)
        return ordered.permute(inverse)

    def view_shift(self, shift: Tensor, number: int) -> Tensor:
        """Return the shift of that number in canonical form."""
        ordered = shift if self.order is None else _padded(shift, len(self.order)).permute(self.order)
        return ordered.reshape(self.shift_shapes[number])

    def restore_shift(self, canonical: Tensor, like: Tensor) -> Tensor:
        """Undo `view_shift`."""
        ordered = canonical if self.order is None else self.restore(canonical, _padded(like, len(self.order)))
        return ordered.reshape(like.shape)


_FLAT = Layout(None, (-1,), (1,), (0,))  # of a contiguous tensor, one scale for all: most of a model


def layout(x: Tensor, scale: Tensor, shifts: Sequence[Tensor] = ()) -> Layout:
    """Find the canonical view of `x` for a scale that broadcasts against it."""
    compiling = torch.compiler.is_compiling()
    if not compiling and not shifts and scale.numel() == 1 and x.is_contiguous():
        return _FLAT
    kept = _kept_axes(x, scale)
    if compiling:
        reduced = tuple(axis for axis in range(x.dim()) if axis not in kept)
        scale_shape = tuple(scale.shape) if kept else (1,) * x.dim()
        return Layout(None, tuple(x.shape), scale_shape, reduced, tuple(tuple(_padded(shift, x.dim()).shape) for shift in shifts))
    order = _memory_order(x)
    if shifts:
        return _layout_with_shifts(tuple(x.shape), order, [_along(kept, x.dim()), *(_varying(shift, x.dim()) for shift in shifts)])
    if not kept:
        return Layout(order, (-1,), (1,), (0,))
    if order is not None and not _neighbours([order.index(axis) for axis in kept]):
        order = None  # such as one scale per sample and channel, in channels-last memory: the view is a copy
    axes = range(x.dim()) if order is None else order
    places = sorted(axes.index(axis) for axis in kept)
    if not _neighbours(places):
        raise StillbitError(f"a scale of shape {tuple(scale.shape)} varies along axes that are not neighbours")
    sizes = [x.shape[axis] for axis in axes]
    first, last = places[0], places[-1] + 1
    outer, count, inner = (math.prod(part) for part in (sizes[:first], sizes[first:last], sizes[last:]))
    return Layout(order, (outer, count, inner), (1, count, 1), (0, 2))


def _layout_with_shifts(sizes: tuple[int, ...], order: tuple[int, ...] | None, varying: list[list[bool]]) -> Layout:
    """Join neighbouring axes along which the same tensors vary; `varying` says it of the scale and of each shift."""
    joined: list[tuple[int, tuple[bool, ...]]] = []
    for axis in range(len(sizes)) if order is None else order:
        own = tuple(each[axis] for each in varying)
        if joined and own == joined[-1][1]:
            joined[-1] = (joined[-1][0] * sizes[axis], own)
        elif sizes[axis] != 1:
            joined.append((sizes[axis], own))
    joined = joined or [(1, (False,) * len(varying))]
    shapes = (tuple(size if own[number] else 1 for size, own in joined) for number in range(len(varying)))
    scale_shape, *shift_shapes = shapes
    reduced = tuple(place for place, (_, own) in enumerate(joined) if not own[0])
    return Layout(order, tuple(size for size, _ in joined), scale_shape, reduced, tuple(shift_shapes))


def _padded(shift: Tensor, num_axes: int) -> Tensor:
    return shift.reshape(*(1,) * (num_axes - shift.dim()), *shift.shape)


def _varying(shift: Tensor, num_axes: int) -> list[bool]:
    return [False] * (num_axes - shift.dim()) + [size != 1 for size in shift.shape]


def _along(kept: Sequence[int], num_axes: int) -> list[bool]:
    return [axis in kept for axis in range(num_axes)]


def _kept_axes(x: Tensor, scale: Tensor) -> list[int]:
    """Return the axes along which the scale varies: none for a scale of one element, whatever its shape."""
    if scale.numel() == 1:
        return []
    # Not `size in (1, whole)`: torch 2.9 cannot trace that where sizes are symbols.
    fits = scale.dim() == x.dim() and all(size == 1 or size == whole for size, whole in zip(scale.shape, x.shape, strict=True))
    if not fits:
        raise StillbitError(
            f"a scale of shape {tuple(scale.shape)} was given a latent of shape {tuple(x.shape)}; "
            "they need as many axes, and each axis of the scale has size 1 or the latent's"
        )
    return [axis for axis, size in enumerate(scale.shape) if size != 1]


def _neighbours(places: Sequence[int]) -> bool:
    return max(places) - min(places) == len(places) - 1


def _memory_order(x: Tensor) -> tuple[int, ...] | None:
    """Return the axes from slowest to fastest, or None for a contiguous tensor (and one with gaps, which a view must copy)."""
    if x.is_contiguous():
        return None
    strides = x.stride()
    order = tuple(sorted(range(x.dim()), key=lambda axis: -strides[axis]))
    return order if x.permute(order).is_contiguous() else None


def shifts(*given: Tensor | None) -> list[Tensor]:
    """Return those learned shifts that are there."""
    return [shift for shift in given if shift is not None]
