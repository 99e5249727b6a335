"""One pass of a kernel over all weights of a model, in place: large ones where they lie, all small ones of a kind at once.

A kernel that is run so changes its first tensors, reads the others, and gives nothing. It works element by element, with the arithmetic of
kernels.py: so it need not know of which weight an element is.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillbit.numerics.fast.running import run
from stillbit.numerics.fast.thresholds import settings
from stillbit.numerics.grid import Grid, zero_point_of
from stillbit.numerics.kernels import CanonicalGrid
from stillbit.numerics.layout import layout
from stillbit.numerics.limits import compute_dtype

InPlaceKernel = Callable[..., tuple[()]]


class Part(NamedTuple):
    """What one weight brings to a pass.

    Attributes:
        elements: A named tuple of tensors of one shape, None where the kernel has none; the first is one, the last is the latent.
        num_changed: How many of them, from the first on, the kernel changes.
        spread: Tensors of one element or that broadcast against them: the scale, the zero point (None for 0), what else the kernel takes.
        numbers: What is one number for the whole weight: shift, smallest and largest code.
    """

    elements: Any
    num_changed: int
    spread: tuple[Tensor | None, ...]
    numbers: tuple[float, float, float]

    @property
    def latent(self) -> Tensor:
        """The latent."""
        latent: Tensor = self.elements[-1]
        return latent


def part(elements: Any, num_changed: int, grid: Grid, *more: Tensor) -> Part:
    """Make the part of a latent on a grid.

    Args:
        elements: A named tuple of tensors of one shape, or None; the first is one, the last is the latent.
        num_changed: How many of them, from the first on, the kernel changes.
        grid: The latent's grid.
        more: Further tensors, one element each.
    """
    latent: Tensor = elements[-1]
    given = (None if one is None else one.to(compute_dtype(latent)) for one in (grid.scale, zero_point_of(grid), *more))
    spread = tuple(one if one is None or one.numel() > 1 else one.reshape(1) for one in given)
    return Part(elements, num_changed, spread, (grid.shift, float(grid.low), float(grid.high)))


@torch.no_grad()
def run_pass(kernel: InPlaceKernel, parts: Iterable[Part], *settings: Any) -> None:
    """Run a kernel over many weights, with the same result as weight by weight.

    Args:
        kernel: Called with elements, grid and further tensors of a part, in canonical form (layout.py), and the settings; or with those of
            many put end to end, each with an element of its own of scale, zero point and further tensors.
        parts: The weights. One that several layers share is passed over once for each, one after the other.
        settings: What is the same for all: tensors of no axis on the CPU, floats that seldom change, hashable values.
    """
    groups: dict[Hashable, list[Part]] = defaultdict(list)
    turns: Counter[int] = Counter()
    for one in parts:
        views = _views(one)
        if views is None:
            place = one.latent.data_ptr()
            groups[_kind(one), turns[place]].append(one)
            turns[place] += 1
        else:
            _run(kernel, views, one, settings)
    for group in groups.values():
        _run_together(kernel, group, settings)


def _views(one: Part) -> list[Tensor | None] | None:
    """Return canonical views of the tensors of a large weight; None for a small one, and where a view would be a copy.

    One scale stays one element, and all else is flat: such a kernel is compiled to one loop. With an axis for scales it is four loops,
    which hand three tensors of floats to one another; to copy such scales, one for each weight, costs more yet.
    """
    latent, scale = one.latent, one.spread[0]
    assert scale is not None
    if latent.numel() < settings.alone_from or any(tensor is not None and not _alike(tensor, latent) for tensor in one.elements):
        return None
    seen = layout(latent, scale)
    if seen.view(latent).data_ptr() != latent.data_ptr():
        return None
    elements = [tensor if tensor is None else seen.view(tensor) for tensor in one.elements]
    return elements + [tensor if tensor is None or tensor.numel() == 1 else seen.view_scale(tensor) for tensor in one.spread]


def _alike(tensor: Tensor, latent: Tensor) -> bool:
    """Return whether two tensors of one shape have their elements in the same order; strides of axes of size 1 say nothing."""
    return tensor.stride() == latent.stride() or (tensor.is_contiguous() and latent.is_contiguous())


def _kind(one: Part) -> Hashable:
    """Return what weights have in common that can be put end to end."""
    kinds = (None if tensor is None else (tensor.dtype, tensor.device) for tensor in (*one.elements, *one.spread))
    return one.num_changed, one.numbers, *kinds


def _run_together(kernel: InPlaceKernel, group: Sequence[Part], settings: tuple[Any, ...]) -> None:
    shapes = [one.latent.shape for one in group]
    elements = _end_to_end([one.elements for one in group])
    wide = [[tensor if tensor is None else tensor.expand(shape) for tensor in one.spread] for one, shape in zip(group, shapes, strict=True)]
    _run(kernel, [*elements, *_end_to_end(wide)], group[0], settings)
    for index, whole in enumerate(elements[: group[0].num_changed]):
        if whole is not None:
            pieces = torch.split(whole, [shape.numel() for shape in shapes])
            targets = [tensor for one in group if (tensor := one.elements[index]) is not None]
            torch._foreach_copy_(targets, [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)])


def _end_to_end(rows: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """Join the first tensors of all rows, the second ones, and so on; None where they are."""
    columns = ([tensor.reshape(-1) for tensor in column if tensor is not None] for column in zip(*rows, strict=True))
    return [torch.cat(column) if column else None for column in columns]


def _run(kernel: InPlaceKernel, tensors: Sequence[Tensor | None], one: Part, settings: tuple[Any, ...]) -> None:
    num_elements = len(one.elements)
    scale, zero_point, *more = tensors[num_elements:]
    assert scale is not None
    run(kernel, type(one.elements)(*tensors[:num_elements]), CanonicalGrid(scale, zero_point, *one.numbers), *more, *settings)
