import math

import pytest
import torch
from torch import Tensor

from stillbit.errors import PrepareError
from stillbit.numerics.ranges import MeanMagnitude, RangeConfig
from stillbit.quantizers import LSQ


def initial_scale(x: Tensor, bits: int, *, signed: bool | None, scale_shape: tuple[int, ...] = (1,)) -> LSQ:
    quantizer = LSQ(bits, scale_shape)
    quantizer.range_config = RangeConfig(estimator="mean_magnitude", signed=signed)
    axis = next((axis for axis, size in enumerate(scale_shape) if size != 1), None)
    quantizer.set_range(*quantizer.range_config.build(symmetric=True, bits=bits, channel_axis=axis).update(x))
    return quantizer


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("signed", "channel", "factor"),
    [(True, False, 2), (True, True, 2), (False, False, 2), (False, True, 4), (None, False, 2), (None, True, 2)],
    ids=["signed", "signed channels", "unsigned", "unsigned channels", "by the data", "channels by the data"],
)
@pytest.mark.parametrize("lowest", [-1.0, 0.0], ids=["two-sided", "one-sided"])
def test_initial_scale(bits: int, signed: bool | None, channel: bool, factor: int, lowest: float) -> None:
    x = torch.randn(4, 5, 6).clamp(min=lowest)
    quantizer = initial_scale(x, bits, signed=signed, scale_shape=(1, 5, 1) if channel else (1,))
    is_signed = lowest < 0 if signed is None else signed
    high = 2 ** (bits - 1) - 1 if is_signed else 2**bits - 1
    assert quantizer.limits == (-(high + 1) if is_signed else 0, high)
    mean = x.abs().mean((0, 2), keepdim=True) if channel else x.abs().mean()
    # float32: the range, high times the scale, is rounded on the way
    torch.testing.assert_close(
        quantizer.scale.detach(), (factor * mean / math.sqrt(high)).reshape(quantizer.scale_shape), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("lowest", "signed"), [(-2e-5, True), (-1e-5, False), (-1e-6, False)])
def test_rounding_errors_of_zero_are_no_negative_latents(lowest: float, signed: bool) -> None:
    assert initial_scale(torch.tensor([lowest, 1.0]), 4, signed=None).is_signed is signed


def test_batches_are_averaged_and_one_negative_batch_is_enough() -> None:
    estimator = MeanMagnitude(bits=2)
    batches = [torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 1.0]), torch.tensor([6.0])]
    ends = [estimator.update(batch) for batch in batches]
    assert [float(x_min) < 0 for x_min, _ in ends] == [False, True, True]
    assert float(ends[2][1]) == pytest.approx(2 * (2 + 1 + 6) / 3)


def test_one_bit_with_a_sign_is_refused() -> None:
    for signed in (None, True):
        with pytest.raises(PrepareError, match="1 bit and signed latents"):
            initial_scale(torch.randn(20), 1, signed=signed)
