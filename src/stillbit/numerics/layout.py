"""Canonical views: how a tensor and its scale look to a kernel.

A scale of one element makes a flat view `(numel)`. A scale that varies along one axis (or along several neighbouring axes) makes a
view `(outer, scale, inner)`. Neither moves data where the tensor is dense in any memory order (contiguous, channels-last).

    x (64, 3, 3, 3), scale (1)              -> x (1728),          scale (1)
    x (64, 3, 3, 3), scale (64, 1, 1, 1)    -> x (1, 64, 27),     scale (1, 64, 1)
    x (8, 197, 192), scale (1, 197, 1)      -> x (8, 197, 192),   scale (1, 197, 1)
"""

from typing import NamedTuple

import torch
from torch import Tensor


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

    def restore(self, canonical: Tensor, like: Tensor) -> Tensor:
        """Undoes `view`: gives the shape, and the memory order, of `like`."""
        if self.order is None:
            return canonical.reshape(like.shape)
        ordered = canonical.reshape([like.shape[axis] for axis in self.order])
        inverse = sorted(range(like.dim()), key=self.order.__getitem__)
        return ordered.permute(inverse)

    def view_scale(self, scale: Tensor) -> Tensor:
        """Gives a tensor of the scale's shape in canonical form."""
        ordered = scale if self.order is None or scale.numel() == 1 else scale.permute(self.order)
        return ordered.reshape(self.scale_shape)


def layout(x: Tensor, scale: Tensor) -> Layout:
    """Finds the canonical view of `x` for a scale that broadcasts against it.

    Args:
        x: Any tensor.
        scale: One element, or as many axes as `x`, each of size 1 or that of `x`.

    Returns:
        The layout.
    """
    order = _memory_order(x)
    if scale.numel() == 1:
        return Layout(order, (-1,), (1,), (0,))
    axes = range(x.dim()) if order is None else order
    sizes = [x.shape[axis] for axis in axes]
    kept = [place for place, axis in enumerate(axes) if scale.shape[axis] != 1]
    first, last = kept[0], kept[-1] + 1
    assert all(scale.shape[axis] == x.shape[axis] for axis in list(axes)[first:last]), "scale axes must be neighbours"
    outer, count, inner = (_product(part) for part in (sizes[:first], sizes[first:last], sizes[last:]))
    return Layout(order, (outer, count, inner), (1, count, 1), (0, 2))


def _product(sizes: list[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _memory_order(x: Tensor) -> tuple[int, ...] | None:
    """Gives the axes from slowest to fastest, or None for a contiguous tensor (and one with gaps, which a view must copy)."""
    if x.is_contiguous() or not torch.ops.aten.is_non_overlapping_and_dense(x):
        return None
    strides = x.stride()
    return tuple(sorted(range(x.dim()), key=lambda axis: -strides[axis]))
