"""Quantized values, and how layers save none of them: backward computes them again from the latents, bit for bit.

The nodes of autograd that gave values (fake_quantize.py) tell what they were made of: `options`, `saved_tensors`, `gelu`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.numerics import kernels
from stillbit.numerics.fast.running import run_into
from stillbit.numerics.fast.thresholds import settings
from stillbit.numerics.layout import Layout, layout, shifts
from stillbit.numerics.limits import compute_dtype
from stillbit.numerics.rounding import Rounding


class Limits(NamedTuple):
    """The numbers of a grid and of a folded activation, as kernels take them."""

    shift: float | None
    low: float
    high: float
    clip_low: float | None
    clip_high: float | None


class Options(NamedTuple):
    """What `fake_quantize` was told, next to tensors."""

    rounding: Rounding
    ste_range: str
    random: bool
    recompute: bool
    scale_gradient_factor: float
    limits: Limits


def quantized_values(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    pins: Tensor | None,
    before: Tensor | None,
    after: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor | None]:
    """Return the values, and the rounded positions of a random rounding."""
    seen = layout(x, scale, shifts(before, after))
    view = seen.view(x)
    noise = torch.rand_like(view, dtype=compute_dtype(x)) if options.random else None
    pinned = None if pins is None else seen.view(pins)
    grid, around = canonical(seen, compute_dtype(x), scale, zero_point, before, after, options.limits)
    value, kept = run_into(torch.empty_like, kernels.forward, view, grid, pinned, noise, around)
    assert value is not None
    return seen.restore(value, x).data, kept  # not a view: PyTorch forbids `+=` on a view that a custom function gives, and models do it


def canonical(
    seen: Layout,
    dtype: torch.dtype,
    scale: Tensor,
    zero_point: Tensor | None,
    before: Tensor | None,
    after: Tensor | None,
    limits: Limits,
) -> tuple[kernels.CanonicalGrid, kernels.Around]:
    """Return a grid, and what stands around it, as kernels take them."""
    grid = kernels.CanonicalGrid(
        seen.view_scale(scale).to(dtype),
        None if zero_point is None else seen.view_scale(zero_point).to(dtype),
        limits.shift,
        limits.low,
        limits.high,
    )
    around = kernels.Around(
        None if before is None else seen.view_shift(before, 0),
        None if after is None else seen.view_shift(after, -1),
        limits.clip_low,
        limits.clip_high,
    )
    return grid, around


def values_recomputed(*values: Tensor) -> AbstractContextManager[Any]:
    """Let operations in this context save none of these values for backward: there they are computed again, from the latents.

    The latents are saved in any case. So a layer that multiplies quantized tensors keeps as many bytes as a float one, for one more
    pass over them. A compiler decides by itself what to compute again; while one traces, this context does nothing.

    Args:
        values: What `fake_quantize` gave. Other tensors, randomly rounded values, and small ones (below 65,536 elements, as most weights
            are), are saved as they are.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    nodes = {value.data_ptr(): value.grad_fn for value in values if value.numel() >= settings.recompute_from}
    # Tensors without memory (empty, or on the meta device) all have the address 0.
    found = {address: node for address, node in nodes.items() if address != 0 and _is_recomputable(node)}
    if not found:
        return nullcontext()

    surrounding: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)

    def pack(saved: Tensor) -> _Packed | _PackedAround | Tensor:
        node = found.get(saved.data_ptr())
        if node is not None:
            return _Packed(node, saved.size(), saved.stride(), int(saved.storage_offset()))
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


class _Packed(NamedTuple):
    """A saved tensor as a view of values to be computed again: a linear layer saves its weight transposed."""

    # The node of the values is an input of the operation that saves them: to refer to it keeps nothing more alive.
    node: Any
    size: Sequence[int]
    stride: Sequence[int]
    offset: int


def _is_recomputable(node: Any) -> bool:
    options = getattr(node, "options", None)
    return isinstance(options, Options) and options.recompute


def _unpack(packed: _Packed | _PackedAround | Tensor) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    if isinstance(packed, _PackedAround):
        return packed.unpack(packed.packed)
    node = packed.node
    x, scale, zero_point, pins, before, after, _ = node.unpacked = saved_tensors(node)
    values, _ = quantized_values(x, scale, zero_point, pins, before, after, node.options)
    return values.as_strided(packed.size, packed.stride, packed.offset)


def saved_tensors(node: Any) -> Any:
    """Return what a node has saved, read once: activation checkpointing returns each tensor only once."""
    if node.unpacked is not None:
        return node.unpacked
    if node.gelu is None:
        return node.saved_tensors
    with torch.no_grad():
        latent = F.gelu(node.gelu._saved_self, approximate=node.gelu._saved_approximate)
    return latent, *node.saved_tensors[1:]


def gelu_to_repeat(x: Tensor) -> Any:
    """Return the node of the GELU that gave `x`, to give it once more in backward rather than save it: GELU saves its own input anyway."""
    if x.numel() < settings.recompute_from or torch.compiler.is_compiling() or x.grad_fn is None or x.grad_fn.name() != "GeluBackward0":
        return None
    surrounding: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)
    # Activation checkpointing returns what GELU has saved only once.
    is_checkpointed = surrounding is not None and getattr(surrounding[0], "__module__", "") == "torch.utils.checkpoint"
    return None if is_checkpointed else x.grad_fn
