"""Learned shifts within the pass of a quantizer, against additions around it."""

import pytest
import torch
from torch import Tensor

from stillbit.numerics import STE, Grid, Stochastic, fake_quantize
from stillbit.numerics.fast import settings
from stillbit.numerics.layout import layout

Shape = tuple[int, ...]
Memory = torch.memory_format

SHAPES = {
    "tokens": ((8, 7, 12), (1, 7, 1), (12,), (12,)),
    "heads": ((8, 7, 3, 4), (1, 7, 3, 1), (3, 4), None),
    "behind alone": ((8, 7, 12), (1, 1, 12), None, (12,)),
    "one scale": ((8, 7, 12), (1,), (12,), (7, 12)),
    "scale without axes": ((8, 12), (), (12,), (1,)),
    "pixels": ((2, 3, 4, 5), (1, 3, 1, 1), (4, 5), (4, 5)),
    "channels": ((2, 3, 4, 5), (1,), (3, 1, 1), (3, 1, 1)),
    "one of each": ((1, 1, 6), (1, 1, 1), (6,), (6,)),
    "single": ((1,), (1,), (1,), (1,)),
}
shapes = pytest.mark.parametrize(("shape", "scale_shape", "before_shape", "after_shape"), SHAPES.values(), ids=SHAPES.keys())


def leaf(shape: Shape | None, seed: int) -> Tensor | None:
    return None if shape is None else torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def results(x: Tensor, scale: Tensor, before: Tensor | None, after: Tensor | None, *, within: bool) -> list[Tensor]:
    """Return values, and the gradients to latents, scale and shifts."""
    x, scale = (tensor.detach().requires_grad_() for tensor in (x, scale))
    grid = Grid(scale, 0, 0.0, -2, 1)
    if within:
        values = fake_quantize(x, grid, ste_range="position", before=before, after=after)
    else:
        values = fake_quantize(x if before is None else x + before, grid, ste_range="position")
        values = (values if after is None else values + after).to(x.dtype)
    gradient = torch.randn(values.shape, generator=torch.Generator().manual_seed(9)).to(values.dtype)
    learned = [tensor for tensor in (x, scale, before, after) if tensor is not None]
    return [values.detach(), *torch.autograd.grad(values, learned, gradient)]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@shapes
def test_they_are_additions_before_and_behind(
    shape: Shape, scale_shape: Shape, before_shape: Shape | None, after_shape: Shape | None, memory: Memory
) -> None:
    x = torch.randn(shape)
    x = x.to(memory_format=memory) if len(shape) == 4 else x
    scale, before, after = torch.rand(scale_shape) + 0.2, leaf(before_shape, 1), leaf(after_shape, 2)
    fused, apart = (results(x, scale, before, after, within=within) for within in (True, False))
    assert torch.equal(fused[0], apart[0])
    assert fused[0].stride() == x.stride()
    assert torch.equal(fused[1], apart[1])
    for one, other in zip(fused[2:], apart[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # sums in another order


@pytest.mark.end_to_end
def test_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, scale_shape, before_shape, _ = SHAPES["heads"]
    x, scale, before, after = torch.randn(shape), torch.rand(scale_shape) + 0.2, leaf(before_shape, 1), leaf((3, 4), 2)
    eager = results(x, scale, before, after, within=True)
    monkeypatch.setattr(settings, "compile_from", 1)
    compiled = results(x, scale, before, after, within=True)
    assert torch.equal(compiled[0], eager[0])
    assert torch.equal(compiled[1], eager[1])
    for one, other in zip(compiled[2:], eager[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # sums in another order


def test_half_precision_latents_are_shifted_in_the_precision_of_the_shift() -> None:
    """As additions of a float32 shift do: neither the shifted latent nor its gradient is rounded before it is used."""
    x, before, after = torch.randn(64, 12).bfloat16(), leaf((12,), 1), leaf((12,), 2)
    fused, apart = (results(x, torch.tensor([0.3]), before, after, within=within) for within in (True, False))
    assert fused[0].dtype == fused[1].dtype == torch.bfloat16
    assert all(torch.equal(one, other) for one, other in zip(fused[:2], apart[:2], strict=True))
    for one, other in zip(fused[2:], apart[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # float32 sums in another order; bfloat16 ones differ by 1e-2


def test_random_rounding_is_shifted_too() -> None:
    x, after = torch.rand(1000), torch.tensor([10.0])
    grid = Grid(torch.tensor([1.0]), 0, 0.0, -2, 1)
    values = fake_quantize(x, grid, rounding=Stochastic(), after=after)
    assert set(values.tolist()) == {10.0, 11.0}
    assert fake_quantize(x, grid, rounding=STE(), before=after, after=after).unique().tolist() == [11.0]


def test_a_gradient_transposed_in_memory_gives_the_same() -> None:
    x, before = torch.randn(4, 6, 5), leaf((5,), 1)
    leaves = [x.requires_grad_(), before]
    values = fake_quantize(x, Grid(torch.ones(1, 6, 1), 0, 0.0, -2, 1), before=before)
    gradient = torch.randn(4, 5, 6).mT
    straight = torch.autograd.grad(values, leaves, gradient.contiguous(), retain_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(straight, torch.autograd.grad(values, leaves, gradient), strict=True))


@shapes
def test_the_canonical_shift_meets_the_view(
    shape: Shape, scale_shape: Shape, before_shape: Shape | None, after_shape: Shape | None
) -> None:
    x = torch.randn(shape)
    x = x.to(memory_format=torch.channels_last) if len(shape) == 4 else x
    shifts = [shift for shift in (leaf(before_shape, 1), leaf(after_shape, 2)) if shift is not None]
    seen = layout(x, torch.ones(scale_shape), shifts)
    assert seen.view(x).data_ptr() == x.data_ptr()
    for number, shift in enumerate(shifts):
        canonical = seen.view_shift(shift, number)
        assert torch.equal(seen.restore(seen.view(x) + canonical, x), x + shift)
        assert torch.equal(seen.restore_shift(canonical, shift), shift)


def test_axes_with_the_same_shifts_are_one() -> None:
    assert layout(torch.empty(8, 14, 14, 64), torch.ones(1), [torch.ones(64)]).shape == (1568, 64)
    seen = layout(torch.empty(8, 197, 3, 64), torch.ones(1, 197, 3, 1), [torch.ones(3, 64), torch.ones(64)])
    assert seen.shape == (8, 197, 3, 64)
    assert seen.scale_shape == (1, 197, 3, 1)
    assert seen.reduced == (0, 3)
    assert seen.shift_shapes == ((1, 1, 3, 64), (1, 1, 1, 64))
