import pytest
import torch
from torch import Tensor

from stillbit.errors import StillbitError
from stillbit.numerics.layout import layout


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


CASES = {
    "scalar": (torch.randn(()), (1,), (1,)),
    "tensor": (torch.randn(6, 4, 3), (1,), (72,)),
    "tensor, scale without axes": (torch.randn(6, 4), (), (24,)),
    "tensor, channels-last": (channels_last(2, 3, 4, 5), (1,), (120,)),
    "one output channel each": (torch.randn(6, 4, 3, 3), (6, 1, 1, 1), (1, 6, 36)),
    "one output channel each, channels-last": (channels_last(6, 4, 3, 3), (6, 1, 1, 1), (1, 6, 36)),
    "one input channel each": (torch.randn(2, 5, 3, 3), (1, 5, 1, 1), (2, 5, 9)),
    "one input channel each, channels-last": (channels_last(2, 5, 3, 3), (1, 5, 1, 1), (18, 5, 1)),
    "one token each": (torch.randn(8, 7, 3), (1, 7, 1), (8, 7, 3)),
    "one head each, transposed": (torch.randn(2, 7, 3, 5).transpose(1, 2), (1, 3, 1, 1), (14, 3, 5)),
    "two axes": (torch.randn(2, 3, 4, 5), (1, 3, 4, 1), (2, 12, 5)),
    "two axes, swapped in memory": (torch.randn(2, 4, 3, 5).transpose(1, 2), (1, 3, 4, 1), (2, 12, 5)),
    "two axes, parted in memory": (channels_last(2, 3, 4, 5), (2, 3, 1, 1), (1, 6, 20)),
    "expanded": (torch.randn(4, 1).expand(4, 6), (4, 1), (1, 4, 6)),
    "with gaps": (torch.randn(4, 12)[:, ::2], (1, 6), (4, 6, 1)),
    "empty": (torch.empty(0, 6), (1, 6), (0, 6, 1)),
}
cases = pytest.mark.parametrize(("x", "scale_shape", "shape"), CASES.values(), ids=CASES.keys())


@cases
def test_canonical_shape(x: Tensor, scale_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
    seen = layout(x, torch.ones(scale_shape))
    assert tuple(seen.view(x).shape) == shape


@cases
def test_view_and_scale_meet_as_they_broadcast(x: Tensor, scale_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
    scale = torch.rand(scale_shape) + 1
    seen = layout(x, scale)
    assert torch.equal(seen.restore(seen.view(x) / seen.view_scale(scale), x), (x / scale).reshape(x.shape))


@cases
def test_restoring_gives_shape_and_memory_order_back(x: Tensor, scale_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
    scale = torch.rand(scale_shape)
    seen = layout(x, scale)
    restored = seen.restore(seen.view(x).clone(), x)
    assert torch.equal(restored, x)
    assert torch.equal(seen.restore(seen.view_scale(scale), scale), scale)
    if seen.order is not None:
        assert restored.stride() == x.stride()


@cases
def test_sums_over_what_shares_a_scale(x: Tensor, scale_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
    scale = torch.ones(scale_shape, requires_grad=True)
    (expected,) = torch.autograd.grad((x.double() * scale.double()).sum(), scale)
    seen = layout(x, scale)
    summed = seen.view(x).double().sum(seen.reduced, keepdim=True)
    # float64 sums in another order, rounded to float32
    torch.testing.assert_close(seen.restore(summed, scale).to(scale.dtype), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("expanded", "with gaps", "two axes, parted in memory", "empty")])
def test_no_data_moves(name: str) -> None:
    x, scale_shape, _ = CASES[name]
    assert layout(x, torch.ones(scale_shape)).view(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("shape", "scale_shape", "message"),
    [
        ((8, 10), (8, 1, 1, 1), r"scale of shape \(8, 1, 1, 1\) was given a latent of shape \(8, 10\)"),
        ((2, 5, 4), (1, 7, 1), r"each axis of the scale has size 1 or the latent's"),
        ((1, 4), (6, 1), r"each axis of the scale has size 1 or the latent's"),
        ((2, 3, 4), (2, 1, 4), "axes that are not neighbours"),
    ],
    ids=["other axes", "other tokens", "fewer channels", "not neighbours"],
)
def test_a_scale_that_does_not_fit_is_refused(shape: tuple[int, ...], scale_shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(StillbitError, match=message):
        layout(torch.zeros(shape), torch.ones(scale_shape))
