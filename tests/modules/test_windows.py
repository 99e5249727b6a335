"""Cutting maps into windows and putting them together; which pairs a shifted window hides."""

import pytest
import torch
from torch import Tensor

from stillbit.modules.windows import Windows, position_bias

CASES = {
    "whole windows": ((8, 8), (4, 4), (0, 0)),
    "shifted": ((8, 12), (4, 4), (2, 1)),
    "padded and shifted": ((7, 10), (4, 4), (2, 2)),
    "unequal sides": ((6, 6), (2, 3), (1, 1)),
    "one window": ((3, 4), (4, 4), (2, 2)),
}


def image(size: tuple[int, int]) -> Tensor:
    return torch.arange(2.0 * size[0] * size[1]).view(2, *size, 1)


@pytest.mark.parametrize("case", CASES)
def test_join_undoes_cut(case: str) -> None:
    size, window, shift = CASES[case]
    x = image(size)
    windows = Windows.of(x, window, shift)
    assert torch.equal(windows.join(windows.cut(x), size), x)


def test_cut_orders_windows_by_sample_row_and_column() -> None:
    x = image((4, 4))
    cut = Windows.of(x, (2, 2), (0, 0)).cut(x)
    assert cut[:5, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15], [16, 17, 20, 21]]


def test_cut_pads_with_zeros_at_the_lower_right() -> None:
    x = image((1, 3)) + 1
    assert Windows.of(x, (2, 2), (0, 0)).cut(x)[:2, :, 0].tolist() == [[1, 2, 0, 0], [3, 0, 0, 0]]


@pytest.mark.parametrize(("size", "shift"), [((3, 8), (0, 2)), ((8, 4), (2, 0)), ((4, 3), (0, 0)), ((5, 8), (2, 2))], ids=str)
def test_an_axis_of_one_window_is_not_shifted(size: tuple[int, int], shift: tuple[int, int]) -> None:
    assert Windows.of(image(size), (4, 4), (2, 2)).shift == shift


def test_no_mask_without_a_shift() -> None:
    x = image((8, 8))
    assert Windows.of(x, (4, 4), (0, 0)).mask(x) is None


def test_mask_hides_what_rolling_brought_together() -> None:
    """A row of 4 in windows of 2, rolled by 1: the second window holds places 3 and 0, which are far apart."""
    x = image((2, 4))
    mask = Windows.of(x, (2, 2), (0, 1)).mask(x)
    assert mask is not None
    assert mask.shape == (2, 1, 4, 4)
    apart = [[0, -100, 0, -100], [-100, 0, -100, 0], [0, -100, 0, -100], [-100, 0, -100, 0]]
    assert mask[:, 0].tolist() == [[[0] * 4] * 4, apart]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_mask_has_the_dtype_of_the_map(dtype: torch.dtype) -> None:
    x = image((8, 8)).to(dtype)
    mask = Windows.of(x, (4, 4), (2, 2)).mask(x)
    assert mask is not None
    assert mask.dtype == dtype


@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=["flat, torchvision", "square, timm"])
def test_position_bias_looks_up_each_pair(shape: tuple[int, ...]) -> None:
    table, index = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]), torch.tensor([1, 2, 0, 1]).view(shape)
    assert position_bias(table, index, 2).tolist() == [[[[2, 3], [1, 2]], [[20, 30], [10, 20]]]]
