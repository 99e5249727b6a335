"""Codes are those of the plain formula, whatever the layout and the pins."""

import pytest
import torch

from stillbit.numerics.fake_quantize import fake_quantize
from stillbit.numerics.grid import Grid, code
from stillbit.numerics.limits import FREE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("scale_shape", "zero_point", "shift"),
    [
        pytest.param((1,), 0, 0.0, id="tensor"),
        pytest.param((1,), torch.tensor([3.0]), 0.0, id="zero_point"),
        pytest.param((-1, 1, 1), 0, 0.5, id="rows-half"),
    ],
)
def test_codes_are_those_of_the_formula(dtype, scale_shape, zero_point, shift):
    torch.manual_seed(0)
    rows = 6
    x = torch.randn(rows, 40, 8).to(dtype)
    scale = torch.rand(tuple(rows if size == -1 else size for size in scale_shape)) + 0.1
    grid = Grid(scale, zero_point, shift, low=-4, high=3)
    found = code(x, grid)
    precise = x.to(torch.promote_types(dtype, torch.float32))
    formula = ((precise / scale.to(precise.dtype) - shift).round() + zero_point).clamp(-4, 3)
    assert torch.equal(found, formula)
    assert found.dtype == precise.dtype
    pins = torch.full(x.shape, FREE, dtype=torch.int8)
    pins[:, ::7] = 2
    pinned = code(x, grid, pins)
    assert torch.equal(pinned, torch.where(pins == FREE, found, 2.0))


def test_ties_go_to_the_even_position_and_keep_the_memory_order():
    grid = Grid(torch.ones(1), torch.tensor([1.0]), 0.0, low=-4, high=3)
    assert code(torch.tensor([-1.5, -0.5, 0.5, 1.5]), grid).tolist() == [-1.0, 1.0, 1.0, 3.0]
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert code(x, grid).stride() == x.stride()


def test_a_whole_number_as_zero_point_counts_in_codes_and_in_values():
    x, scale = torch.tensor([-1.0, 0.0, 0.6, 9.0]), torch.tensor([0.5])
    of_number, of_tensor = Grid(scale, 2, 0.0, low=0, high=7), Grid(scale, torch.tensor([2.0]), 0.0, low=0, high=7)
    assert code(x, of_number).tolist() == [0.0, 2.0, 3.0, 7.0]
    assert torch.equal(code(x, of_number), code(x, of_tensor))
    assert fake_quantize(x, of_number).tolist() == [-1.0, 0.0, 0.5, 2.5]
