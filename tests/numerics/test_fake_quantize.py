"""Values, and gradients against a float64 chain of elementary operations with straight-through roundings (docs/spec/cnn.md, 1.3 to 1.6)."""

import math
from typing import NamedTuple, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stillbit.numerics import EWGS, STE, Grid, Rounding, StackedSigmoid, Stochastic, fake_quantize
from stillbit.numerics.grid import code, value
from stillbit.numerics.kernels import STERange
from stillbit.numerics.limits import FREE

LIMITS = {"signed": (-4, 3), "unsigned": (0, 7), "asymmetric": (0, 7)}
SHAPES = {
    "tensor": ((6, 4, 3), (1,)),
    "channel": ((6, 4, 3), (6, 1, 1)),
    "token": ((2, 5, 4), (1, 5, 1)),
    "feature": ((2, 5, 4), (1, 1, 4)),
}
roundings = pytest.mark.parametrize("rounding", [STE(), EWGS(), StackedSigmoid(2.0), Stochastic()], ids=lambda r: type(r).__name__)
ste_ranges = pytest.mark.parametrize("ste_range", get_args(STERange))
kinds = pytest.mark.parametrize("kind", LIMITS)
granularities = pytest.mark.parametrize("granularity", SHAPES)


class Inputs(NamedTuple):
    x: Tensor
    scale: Tensor
    code_zero: Tensor | None
    value_zero: Tensor | None
    pins: Tensor | None
    upstream: Tensor

    @property
    def learned(self) -> list[Tensor]:
        return [tensor for tensor in (self.x, self.scale, self.code_zero, self.value_zero) if tensor is not None]

    def grid(self, kind: str, shift: float = 0.0) -> Grid:
        return Grid(self.scale, 0 if self.code_zero is None else self.code_zero, shift, *LIMITS[kind])


def inputs(kind: str, granularity: str, *, pinned: bool = False) -> Inputs:
    """Latents in float64 inside and outside the grid, some exactly on ties, limits and half a step beyond the limits."""
    shape, scale_shape = SHAPES[granularity]
    scale = 2.0 ** torch.randint(-2, 2, scale_shape)
    positions = torch.randn(shape) * 5
    ties = torch.tensor([-5, -4.5, -4, -3.5, -0.5, 0, 0.5, 1.5, 3, 3.5, 4, 7, 7.5, 8])
    positions.view(-1)[: len(ties)] = ties
    zero = torch.randint(1, 5, scale_shape).double() if kind == "asymmetric" else None
    pins = torch.where(torch.rand(shape) < 0.3, torch.randint(*LIMITS[kind], shape), FREE).to(torch.int8) if pinned else None
    doubles = [(positions * scale).double(), scale.double(), zero, None if zero is None else zero.clone()]
    return Inputs(*(None if each is None else each.requires_grad_() for each in doubles), pins, torch.randn(shape).double())  # type: ignore[call-arg]


def chain(given: Inputs, kind: str, rounding: Rounding, ste_range: str, shift: float = 0.0) -> Tensor:
    """The same function from elementary operations, each with its own gradient."""
    (low, high), zero = LIMITS[kind], 0 if given.code_zero is None else given.code_zero
    position = given.x / given.scale - shift
    smooth = position * 1
    smooth.register_hook(lambda h: h * factor(rounding, position.detach(), h))
    rounded = position.detach().round() + (smooth - smooth.detach()) + zero  # the bracket is exactly 0
    clamped = rounded.detach().clamp(low, high)
    if ste_range == "open":
        codes = clamped + (rounded - rounded.detach())
    else:  # both ends belong to the grid; torch.clamp passes no gradient there in some versions of torch
        tested = rounded if ste_range == "rounded" else position + zero
        codes = torch.where((tested >= low) & (tested <= high), rounded, clamped)
    if given.pins is not None:
        codes = torch.where(given.pins == FREE, codes, given.pins.double())
    return given.scale * (codes - (0 if given.value_zero is None else given.value_zero) + shift)


def factor(rounding: Rounding, t: Tensor, h: Tensor) -> Tensor | float:
    """The published formulas (docs/spec/cnn.md, 1.4)."""
    if isinstance(rounding, EWGS):
        return 1 + 0.2 * h.sign() * (t - t.round())
    if isinstance(rounding, StackedSigmoid):
        sigmoid = 1 / (1 + torch.exp(2.0 * (t - t.floor() - 0.5)))
        return 2.0 * sigmoid * (1 - sigmoid) / (2 / (1 + math.exp(-1.0)) - 1)
    return 1.0


@roundings
@ste_ranges
@kinds
@granularities
@pytest.mark.parametrize("pinned", [False, True], ids=["free", "pinned"])
def test_values_and_gradients(kind: str, granularity: str, ste_range: str, rounding: Rounding, pinned: bool) -> None:
    given = inputs(kind, granularity, pinned=pinned)
    output = fake_quantize(
        given.x,
        given.grid(kind),
        value_zero_point=given.value_zero,
        pins=given.pins,
        rounding=rounding,
        ste_range=ste_range,
        training=False,
    )
    expected = chain(given, kind, rounding, ste_range)
    assert torch.equal(output, expected)
    gradients = torch.autograd.grad(output, given.learned, given.upstream)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, given.learned, given.upstream), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)  # float64, sums in another order


@ste_ranges
def test_half_shift(ste_range: str) -> None:
    given = inputs("signed", "channel")
    output = fake_quantize(given.x, given.grid("signed", 0.5), ste_range=ste_range)
    expected = chain(given, "signed", STE(), ste_range, 0.5)
    assert torch.equal(output, expected)
    gradients = torch.autograd.grad(output, given.learned, given.upstream)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, given.learned, given.upstream), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)  # float64, sums in another order


@pytest.mark.parametrize(
    ("ste_range", "passing"),
    [
        ("rounded", [-2.5, -2.0, 0.0, 1.0, 1.4]),
        ("position", [-2.0, 0.0, 1.0]),
        ("open", [-3.0, -2.51, -2.5, -2.0, 0.0, 1.0, 1.4, 1.5, 2.0]),
    ],
)
def test_where_each_ste_range_ends(ste_range: str, passing: list[float]) -> None:
    positions = [-3.0, -2.51, -2.5, -2.0, 0.0, 1.0, 1.4, 1.5, 2.0]  # -2.5 rounds to -2 and 1.5 to 2: to even
    x = torch.tensor(positions, requires_grad=True)
    fake_quantize(x, Grid(torch.ones(1), 0, 0.0, -2, 1), ste_range=ste_range).sum().backward()
    assert x.grad is not None
    assert [position for position, gradient in zip(positions, x.grad.tolist(), strict=True) if gradient == 1] == passing
    assert set(x.grad.tolist()) <= {0.0, 1.0}


def test_the_scale_gradient_factor_scales_the_grid_alone() -> None:
    given = inputs("asymmetric", "channel")
    plain, scaled = (
        torch.autograd.grad(
            fake_quantize(given.x, given.grid("asymmetric"), value_zero_point=given.value_zero, scale_gradient_factor=f),
            given.learned,
            given.upstream,
        )
        for f in (1.0, 0.25)
    )
    assert torch.equal(scaled[0], plain[0])
    for gradient, whole in zip(scaled[1:], plain[1:], strict=True):
        assert torch.equal(gradient, whole / 4)


def test_a_pin_holds_its_code_blocks_the_latent_and_passes_the_scale() -> None:
    x = torch.tensor([0.2, 0.2], requires_grad=True)
    scale, zero_point = torch.tensor([0.5], requires_grad=True), torch.tensor([2.0])
    output = fake_quantize(x, Grid(scale, zero_point, 0.0, 0, 7), pins=torch.tensor([FREE, 5], dtype=torch.int8))
    assert output.tolist() == [0.0, 1.5]
    output[1].backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert x.grad.tolist() == [0.0, 0.0]
    assert scale.grad.item() == 5 - 2


latent_lists = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=20)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(latents=latent_lists, scale=st.floats(2**-6, 4, width=32), kind=st.sampled_from(["signed", "unsigned"]))
def test_values_are_those_of_the_codes(latents: list[float], scale: float, kind: str) -> None:
    x, grid = torch.tensor(latents), Grid(torch.tensor([scale]), 0, 0.0, *LIMITS[kind])
    output = fake_quantize(x, grid)
    assert torch.equal(output, value(code(x, grid), grid))
    assert torch.equal(fake_quantize(output, grid), output)


class TestStochastic:
    grid = Grid(torch.tensor([0.5]), 0, 0.0, -4, 3)

    def test_rounds_up_as_often_as_the_fraction_says(self) -> None:
        x = torch.full((40_000,), 0.5 * 1.3)
        output = fake_quantize(x, self.grid, rounding=Stochastic())
        assert set(output.tolist()) == {0.5, 1.0}
        # five standard deviations of a mean of 40,000 draws of 0.5 with probability 0.3
        assert output.mean().item() == pytest.approx(0.65, abs=5 * 0.5 * (0.3 * 0.7 / 40_000) ** 0.5)

    def test_never_moves_a_latent_that_stands_on_the_grid(self) -> None:
        x = torch.tensor([-2.0, -0.5, 0.0, 1.5]).repeat(1000)
        assert torch.equal(fake_quantize(x, self.grid, rounding=Stochastic()), x)

    def test_rounds_to_nearest_in_evaluation(self) -> None:
        x = torch.randn(100)
        assert torch.equal(fake_quantize(x, self.grid, rounding=Stochastic(), training=False), fake_quantize(x, self.grid))

    def test_repeats_with_the_generators_state(self) -> None:
        x = torch.randn(100)
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(fake_quantize(x, self.grid, rounding=Stochastic()))
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])

    @ste_ranges
    def test_backward_belongs_to_the_draw_of_its_forward(self, ste_range: str) -> None:
        given = inputs("signed", "tensor")
        wide = Grid(given.scale, 0, 0.0, -(2**15), 2**15)  # shows the rounded positions: no code is clamped
        torch.manual_seed(3)
        rounded = fake_quantize(given.x, wide, rounding=Stochastic()).detach() / given.scale.detach()
        torch.manual_seed(3)
        output = fake_quantize(given.x, given.grid("signed"), rounding=Stochastic(), ste_range=ste_range)
        to_x, to_scale = torch.autograd.grad(output, [given.x, given.scale], given.upstream)
        position, (low, high) = given.x.detach() / given.scale.detach(), LIMITS["signed"]
        tested = {"rounded": rounded, "position": position, "open": torch.zeros_like(position)}[ste_range]
        passed = given.upstream * ((tested >= low) & (tested <= high))
        assert torch.equal(to_x, passed)
        wanted = (given.upstream * rounded.clamp(low, high) - passed * position).sum()
        torch.testing.assert_close(to_scale, wanted.reshape(1), rtol=1e-12, atol=1e-12)  # float64, sums in another order
