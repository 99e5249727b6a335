import math

import pytest
import torch

from stillbit.errors import DataError
from stillbit.numerics.minmax import CurrentMinMax


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("channel_axis", [None, 0], ids=["tensor", "channels"])
def test_values_that_are_not_finite_are_refused(value: float, channel_axis: int | None) -> None:
    x = torch.randn(3, 4)
    x[1, 2] = value
    with pytest.raises(DataError, match=r"shape \(3, 4\) holds values that are not finite"):
        CurrentMinMax(channel_axis=channel_axis).update(x)


def test_an_empty_tensor_is_refused() -> None:
    with pytest.raises(DataError, match="at least one element"):
        CurrentMinMax().update(torch.empty(0, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_ranges_are_at_least_float32_and_detached(dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, 2.0], dtype=dtype, requires_grad=True)
    for end in CurrentMinMax().update(x):
        assert end.dtype == torch.promote_types(dtype, torch.float32)
        assert end.shape == (1,)
        assert not end.requires_grad


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_any_memory_order_and_gaps(memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=memory_format)
    assert [end.item() for end in CurrentMinMax().update(x)] == [x.min().item(), x.max().item()]
    assert [end.item() for end in CurrentMinMax().update(x[..., ::2])] == [x[..., ::2].min().item(), x[..., ::2].max().item()]


def test_a_whole_tensor_in_dense_memory_is_not_copied() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert CurrentMinMax()._rows(x).data_ptr() == x.data_ptr()


def test_a_vector_can_have_a_range_an_element() -> None:
    x_min, x_max = CurrentMinMax(channel_axis=0).update(torch.tensor([1.0, -2.0]))
    assert torch.equal(x_min, torch.tensor([1.0, -2.0]))
    assert torch.equal(x_max, torch.tensor([1.0, -2.0]))
