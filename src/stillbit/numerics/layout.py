"""Canonical views: how a tensor and its scale look to a kernel.

A scale of one element makes a flat view `(numel)`. A scale that varies along one axis (or along several neighbouring axes) makes a
view `(outer, scale, inner)`. Neither moves data where the tensor is dense in any memory order (contiguous, channels-last).

    x (64, 3, 3, 3), scale (1)              -> x (1728),          scale (1)
    x (64, 3, 3, 3), scale (64, 1, 1, 1)    -> x (1, 64, 27),     scale (1, 64, 1)
    x (8, 197, 192), scale (1, 197, 1)      -> x (8, 197, 192),   scale (1, 197, 1)

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
    """

    order: tuple[int, ...] | None
    shape: tuple[int, ...]
    scale_shape: tuple[int, ...]
    reduced: tuple[int, ...]

    def view(self, x: Tensor) -> Tensor:
        """Gives `x` in the canonical shape; copies only if its memory order is another one."""
        ordered = x if self.order is None else x.permute(self.order)
        return ordered.reshape(self.shape)

    def view_scale(self, scale: Tensor) -> Tensor:
        """Gives a tensor of the scale's shape in canonical form."""
        ordered = scale if self.order is None or scale.numel() == 1 else scale.permute(self.order)
        return ordered.reshape(self.scale_shape)

    def restore(self, canonical: Tensor, like: Tensor) -> Tensor:
        """Undoes `view` and `view_scale`: gives the shape of `like` and, to a latent, its memory order."""
        if self.order is None or like.numel() == 1:
            return canonical.reshape(like.shape)
        ordered = canonical.reshape([like.shape[axis] for axis in self.order])
        inverse = sorted(range(like.dim()), key=self.order.__getitem__)
        return ordered.permute(inverse)


_FLAT = Layout(None, (-1,), (1,), (0,))  # of a contiguous tensor, one scale for all: most of a model


def layout(x: Tensor, scale: Tensor) -> Layout:
    """Finds the canonical view of `x` for a scale that broadcasts against it.

    Args:
        x: Any tensor.
        scale: One element, or as many axes as `x`, each of size 1 or that of `x`; those of another size than 1 are neighbours.

    Returns:
        The layout.

    Raises:
        StillbitError: If the scale does not fit the tensor.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and scale.numel() == 1 and x.is_contiguous():
        return _FLAT
    kept = _kept_axes(x, scale)
    if compiling:
        reduced = tuple(axis for axis in range(x.dim()) if axis not in kept)
        return Layout(None, tuple(x.shape), tuple(scale.shape) if kept else (1,) * x.dim(), reduced)
    order = _memory_order(x)
    if not kept:
        return Layout(order, (-1,), (1,), (0,))
    if order is not None and not _neighbours([order.index(axis) for axis in kept]):
        order = None  # such as one scale a sample and channel, in channels-last memory: the view is a copy
    axes = range(x.dim()) if order is None else order
    places = sorted(axes.index(axis) for axis in kept)
    if not _neighbours(places):
        raise StillbitError(f"a scale of shape {tuple(scale.shape)} varies along axes that are not neighbours")
    sizes = [x.shape[axis] for axis in axes]
    first, last = places[0], places[-1] + 1
    outer, count, inner = (math.prod(part) for part in (sizes[:first], sizes[first:last], sizes[last:]))
    return Layout(order, (outer, count, inner), (1, count, 1), (0, 2))


def _kept_axes(x: Tensor, scale: Tensor) -> list[int]:
    """Gives the axes along which the scale varies: none for a scale of one element, whatever its shape."""
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
    """Gives the axes from slowest to fastest, or None for a contiguous tensor (and one with gaps, which a view must copy)."""
    if x.is_contiguous():
        return None
    strides = x.stride()
    order = tuple(sorted(range(x.dim()), key=lambda axis: -strides[axis]))
    return order if x.permute(order).is_contiguous() else None
