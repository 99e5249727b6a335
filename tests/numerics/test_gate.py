import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillbit.errors import RecipeError
from stillbit.numerics.gate import Gate, free, pass_where
from stillbit.numerics.grid import Grid
from stillbit.numerics.limits import code_limits


def grid(bits: int = 2, *, zero_point: Tensor | int = 0, signed: bool = True) -> Grid:
    return Grid(torch.tensor(1.0), zero_point, 0.5, *code_limits(bits, signed=signed))


def by_definition(position: Tensor, low: int, high: int, boundary_range: float) -> Tensor:
    """Scan every boundary i + 1/2 inside the grid (docs/spec/vit.md, 5.1)."""
    found = torch.zeros_like(position, dtype=torch.bool)
    for index in range(low, high):
        found |= (0.5 - boundary_range <= position - index) & (position - index <= 0.5 + boundary_range)
    return found


@pytest.mark.parametrize("boundary_range", [-0.01, 0.51, float("nan"), float("inf")])
def test_a_band_out_of_range_is_refused(boundary_range: float) -> None:
    with pytest.raises(RecipeError, match=f"boundary_range is {boundary_range}; allowed: 0 to 0.5"):
        Gate(boundary_range)


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("boundary_range", [0.0, 0.125, 0.25, 0.5])
def test_the_bands_ends_are_included(bits: int, boundary_range: float) -> None:
    low, high = code_limits(bits, signed=True)
    position = torch.arange(low - 2, high + 2, 0.0625)  # every sum below is exact
    expected = by_definition(position, low, high, boundary_range)
    assert torch.equal(free(position, grid(bits), Gate(boundary_range)), expected)
    assert expected.any()


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=50), st.integers(2, 4), st.sampled_from([0.0, 0.005, 0.1, 0.37, 0.5]))
@settings(max_examples=100, deadline=None)
def test_any_position(positions: list[float], bits: int, boundary_range: float) -> None:
    position = torch.tensor(positions, dtype=torch.float64)
    found = free(position, grid(bits), Gate(boundary_range))
    low, high = code_limits(bits, signed=True)
    sure = (position - position.floor() - 0.5).abs().sub(boundary_range).abs() > 1e-9  # not within rounding of a band's end
    assert torch.equal(found[sure], by_definition(position, low, high, boundary_range)[sure])
    assert not found[(position < low) | (position > high)].any()


def test_a_zero_point_moves_the_grid_not_the_boundaries() -> None:
    position = torch.tensor([[-3.5, -2.5, 0.5, 1.5], [-3.5, -2.5, 0.5, 1.5]])
    found = free(position, grid(2, zero_point=torch.tensor([[0.0], [3.0]]), signed=False), Gate(0.1))
    assert found.tolist() == [[False, False, True, True], [False, True, False, False]]


def test_nan_is_not_free() -> None:
    assert free(torch.tensor([float("nan"), 0.5]), grid(), Gate(0.5)).tolist() == [False, True]


def test_published_only_boundaries_between_codes_that_occur_count() -> None:
    position = torch.tensor([-0.48, 0.1, 0.52])  # codes 0, 0, 1: the boundary at -1/2 has none below it
    assert free(position, grid(), Gate(0.05)).tolist() == [True, False, True]
    assert free(position, grid(), Gate(0.05, published=True)).tolist() == [False, False, True]
    assert free(position[:2], grid(), Gate(0.05, published=True)).tolist() == [False, False]


def test_a_gradient_passes_where_free_whatever_arrives() -> None:
    x = torch.randn(4, requires_grad=True)
    mask = torch.tensor([True, False, True, False])
    output = pass_where(x, mask)
    assert torch.equal(output, x)
    output.backward(torch.tensor([1.0, float("nan"), -2.0, float("inf")]))
    assert x.grad.tolist() == [1.0, 0.0, -2.0, 0.0]
