import pytest
import torch

from stillbit.numerics import fake_quantize
from stillbit.numerics.limits import SCALE_FLOOR
from stillbit.quantizers import LSQ, FixedRange


def test_nothing_is_learned() -> None:
    quantizer = FixedRange(4, symmetric=False)
    assert list(quantizer.parameters()) == []
    assert set(quantizer.state_dict()) == {"scale", "zero_point", "signed", "calibrated"}


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("x_min", [-1.0, 0.0])
@pytest.mark.parametrize("scale_shape", [(1,), (4, 1)], ids=["tensor", "channel"])
def test_it_quantizes_as_lsq_does_before_training(symmetric: bool, x_min: float, scale_shape: tuple[int, ...]) -> None:
    outputs, gradients = [], []
    for kind in (LSQ, FixedRange):
        quantizer = kind(3, scale_shape, symmetric=symmetric)
        quantizer.set_range(torch.full(scale_shape, x_min), torch.ones(scale_shape))
        x = torch.linspace(-2, 2, 80).reshape(4, 20).requires_grad_()
        outputs.append(quantizer(x))
        gradients.extend(torch.autograd.grad(outputs[-1].sum(), x))
    assert torch.equal(*outputs)
    assert torch.equal(*gradients)


def test_zero_points_are_whole_codes() -> None:
    quantizer = FixedRange(3, (2, 1), symmetric=False)
    quantizer.set_range(torch.tensor([-1.0, -5.0]), torch.tensor([2.0, 0.0]))
    assert quantizer.zero_point is not None
    assert quantizer.zero_point.flatten().tolist() == [2, 7]


def test_an_all_zero_channel_has_the_floor_as_its_scale() -> None:
    quantizer = FixedRange(8)
    quantizer.set_range(0.0, 0.0)
    assert quantizer.grid(torch.zeros(1)).scale.item() == pytest.approx(SCALE_FLOOR)
    x = torch.zeros(3)
    assert torch.equal(quantizer(x), fake_quantize(x, quantizer.grid(x)))
    assert torch.equal(quantizer.half()(x), x)
