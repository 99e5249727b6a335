from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillbit.numerics.grid import Grid, code, fit_range, grid_limits, position, value
from stillbit.numerics.limits import SCALE_FLOOR, code_limits, compute_dtype

floats = st.floats(-20, 20, width=32)
grids = st.builds(
    lambda scale, zero_point, shift, bits, signed: Grid(
        torch.tensor([scale]), zero_point if not signed else 0, shift, *code_limits(bits, signed=signed)
    ),
    scale=st.floats(2**-6, 4, width=32),
    zero_point=st.integers(0, 3),
    shift=st.sampled_from([0.0, 0.5]),
    bits=st.integers(2, 8),
    signed=st.booleans(),
)
latents = st.lists(floats, min_size=1, max_size=20).map(torch.tensor)
properties = settings(deadline=None, max_examples=60, derandomize=True)


def quantize(x: Tensor, grid: Grid) -> Tensor:
    return value(code(x, grid), grid)


@properties
@given(latents, grids)
def test_codes_are_whole_and_within_the_limits(x: Tensor, grid: Grid) -> None:
    codes = code(x, grid)
    assert torch.equal(codes, codes.round())
    assert codes.min() >= grid.low
    assert codes.max() <= grid.high


@properties
@given(latents, grids)
def test_a_value_inside_the_grid_is_at_most_half_a_step_away(x: Tensor, grid: Grid) -> None:
    low, high = grid_limits(grid)
    inside = (x >= low) & (x <= high)
    error = (x - quantize(x, grid)).abs() / grid.scale
    # Position and value are rounded to float32: some 2^-24 of a position of at most 256 + 128.
    assert (error[inside] <= 0.5 + 1e-4).all()


@properties
@given(latents, grids)
def test_quantizing_keeps_the_order(x: Tensor, grid: Grid) -> None:
    values = quantize(x.sort().values, grid)
    assert (values.diff() >= 0).all()


@properties
@given(latents, grids)
def test_quantizing_twice_is_quantizing_once(x: Tensor, grid: Grid) -> None:
    once = quantize(x, grid)
    assert torch.equal(quantize(once, grid), once)


@pytest.mark.parametrize(
    ("latents", "codes"),
    [([-1.25, -0.75, -0.25, 0.25, 0.75], [-2, -2, 0, 0, 2]), ([-9.0, 9.0], [-4, 3]), ([-2.25, 1.75], [-4, 3])],
    ids=["ties go to even", "far outside", "ties at the limits"],
)
def test_codes_at_ties_and_limits(latents: list[float], codes: list[float]) -> None:
    grid = Grid(torch.tensor([0.5]), 0, 0.0, -4, 3)
    assert code(torch.tensor(latents), grid).tolist() == codes


def test_ties_do_not_depend_on_the_zero_point() -> None:
    x = torch.tensor([0.5, 1.5, 2.5])
    assert code(x, Grid(torch.tensor([1.0]), torch.tensor([1.0]), 0.0, 0, 7)).tolist() == [1, 3, 3]  # round(.5) + 1, not round(1.5)


def test_a_half_shift_has_no_zero_level() -> None:
    grid = Grid(torch.tensor([1.0]), 0, 0.5, -2, 1)
    assert value(code(torch.tensor([-9.0, -0.1, 0.1, 9.0]), grid), grid).tolist() == [-1.5, -0.5, 0.5, 1.5]


def test_position_divides_truly() -> None:
    x = torch.arange(1, 2000, dtype=torch.float32)
    scale = torch.tensor([0.3])
    assert torch.equal(position(x, Grid(scale, 0, 0.0, -4, 3)), x / scale)
    assert not torch.equal(x / scale, x * (1 / scale))


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_arithmetic_runs_in_float32_or_the_latents_float64(dtype: torch.dtype, scale_dtype: torch.dtype) -> None:
    grid = Grid(torch.tensor([0.5], dtype=scale_dtype), 0, 0.0, -4, 3)
    x = torch.tensor([0.3], dtype=dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert compute_dtype(x) == position(x, grid).dtype == code(x, grid).dtype == value(code(x, grid), grid).dtype == expected


@pytest.mark.parametrize(
    ("bits", "signed", "limits"), [(2, True, (-2, 1)), (4, True, (-8, 7)), (8, True, (-128, 127)), (1, False, (0, 1)), (3, False, (0, 7))]
)
def test_code_limits(bits: int, signed: bool, limits: tuple[int, int]) -> None:
    assert code_limits(bits, signed=signed) == limits


def test_grid_limits_are_the_values_of_the_outermost_codes_and_pass_gradients() -> None:
    scale, zero_point = torch.tensor([0.5], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    low, high = grid_limits(Grid(scale, zero_point, 0.0, 0, 7))
    assert (low.item(), high.item()) == (-1.0, 2.5)
    (low + high).sum().backward()
    assert scale.grad is not None
    assert zero_point.grad is not None
    assert (scale.grad.item(), zero_point.grad.item()) == (-2.0 + 5.0, -0.5 - 0.5)


@pytest.mark.parametrize(
    ("ends", "options", "expected"),
    [
        ((-1.0, 0.5), {"bits": 3, "symmetric": True}, (1 / 3, 0.0, True)),
        ((0.0, 7.0), {"bits": 3, "symmetric": True}, (1.0, 0.0, False)),
        ((2.0, 7.0), {"bits": 3, "symmetric": True}, (1.0, 0.0, False)),
        ((-1.0, 2.5), {"bits": 3, "symmetric": False}, (0.5, 2.0, False)),
        ((-3.5, -1.0), {"bits": 3, "symmetric": False}, (0.5, 7.0, False)),
        ((2.0, 7.0), {"bits": 3, "symmetric": False}, (1.0, 0.0, False)),
        ((0.0, 0.0), {"bits": 3, "symmetric": True}, (SCALE_FLOOR / 7, 0.0, False)),
        ((0.0, 6.0), {"bits": 3, "symmetric": True, "signed": True}, (2.0, 0.0, True)),
        ((-9.0, 7.0), {"bits": 3, "symmetric": True, "signed": False}, (1.0, 0.0, False)),
    ],
    ids=[
        "signed",
        "unsigned",
        "zero is always inside",
        "asymmetric",
        "asymmetric, all negative",
        "asymmetric, all positive",
        "all zero",
        "signed by order",
        "unsigned by order",
    ],
)
def test_fit_range(ends: tuple[float, float], options: Any, expected: tuple[float, float, bool]) -> None:
    fitted = fit_range(torch.tensor([ends[0]]), torch.tensor([ends[1]]), **options)
    # Float32: a range of negative latents only ends at SCALE_FLOOR, not at 0.
    assert (fitted.scale.item(), fitted.zero_point.item()) == pytest.approx(expected[:2], rel=1e-6)
    assert fitted.signed is expected[2]


def test_one_negative_channel_makes_all_signed() -> None:
    fitted = fit_range(torch.tensor([0.0, -1.0]), torch.tensor([3.0, 0.5]), bits=3, symmetric=True)
    assert fitted.signed
    assert torch.equal(fitted.scale, torch.tensor([3.0, 1.0]) / 3)
