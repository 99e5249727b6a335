import math

import pytest
import torch
from torch import Tensor

from stillbit.errors import RecipeError
from stillbit.numerics import EWGS, STE, Rounding, StackedSigmoid
from stillbit.numerics.limits import SCALE_FLOOR
from stillbit.quantizers import LSQ


def gradients(quantizer: LSQ, x: Tensor, upstream: Tensor) -> tuple[float, float]:
    """Return the gradients of scale and zero point."""
    quantizer.zero_grad()
    quantizer(x).backward(upstream)
    assert quantizer.scale.grad is not None
    zero = None if quantizer.zero_point is None else quantizer.zero_point.grad
    return quantizer.scale.grad.item(), math.nan if zero is None else zero.item()


def place(quantizer: LSQ, scale: float, zero_point: float | None = None) -> LSQ:
    with torch.no_grad():
        quantizer.scale.fill_(math.log(scale) if quantizer.log_scale else scale)
        if quantizer.zero_point is not None:
            quantizer.zero_point.fill_(zero_point)
    return quantizer


def calibrated(bits: int = 3, x_min: float = -1.0, **options: object) -> LSQ:
    quantizer = LSQ(bits, **options)  # type: ignore[arg-type]
    quantizer.set_range(x_min, 1.0)
    return quantizer


@pytest.mark.parametrize(("option", "allowed"), [("ste_range", "rounded, position, open"), ("scale_gradient", "none, lsq")])
def test_unknown_choices_are_refused(option: str, allowed: str) -> None:
    with pytest.raises(RecipeError, match=f"{option} is 'x'; allowed: {allowed}"):
        LSQ(3, **{option: "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize("log_scale", [False, True], ids=["linear", "log"])
@pytest.mark.parametrize(
    ("symmetric", "x_min", "limits", "scale", "zero_point"),
    [(True, -1.5, (-4, 3), 0.5, None), (True, 0.0, (0, 7), 1 / 7, None), (False, -0.75, (0, 7), 0.25, 3.0)],
    ids=["signed", "unsigned", "asymmetric"],
)
def test_the_range_decides_scale_sign_and_zero_point(
    symmetric: bool, x_min: float, limits: tuple[int, int], scale: float, zero_point: float | None, log_scale: bool
) -> None:
    quantizer = calibrated(x_min=x_min, symmetric=symmetric, log_scale=log_scale)
    grid = quantizer.grid(torch.zeros(1))
    assert quantizer.limits == (grid.low, grid.high) == limits
    assert grid.scale.item() == pytest.approx(scale, rel=1e-6)  # exp(log(scale)) in float32
    assert quantizer.scale.item() == pytest.approx(math.log(scale) if log_scale else scale, rel=1e-6)
    assert (None if quantizer.zero_point is None else quantizer.zero_point.item()) == zero_point


def test_more_bits_before_the_range_widen_the_grid() -> None:
    quantizer = LSQ(3)
    quantizer.bits = 8
    quantizer.set_range(-1.0, 1.0)
    assert quantizer.limits == (-128, 127)
    assert quantizer.scale.item() == pytest.approx(1 / 127)


@pytest.mark.parametrize("scale_shape", [(1,), (6, 1, 1)], ids=["tensor", "channel"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_lsq_gradient_factor(symmetric: bool, scale_shape: tuple[int, ...]) -> None:
    x, upstream = torch.randn(6, 5, 4), torch.randn(6, 5, 4)
    found = []
    for scale_gradient in ("none", "lsq"):
        quantizer = LSQ(3, scale_shape, symmetric=symmetric, scale_gradient=scale_gradient)
        quantizer.set_range(torch.full(scale_shape, -1.0), torch.ones(scale_shape))
        quantizer(x).backward(upstream)
        found.append([parameter.grad for parameter in quantizer.parameters()])
    latents_a_scale, high = 120 / len(torch.ones(scale_shape)), 3 if symmetric else 7
    for plain, scaled in zip(*found, strict=True):
        torch.testing.assert_close(scaled, plain * (high * latents_a_scale) ** -0.5)


def test_an_empty_batch_has_no_gradient_factor() -> None:
    quantizer = calibrated(scale_gradient="lsq")
    assert gradients(quantizer, torch.empty(0, 3), torch.empty(0, 3))[0] == 0.0


def test_gradient_of_a_log_scale_is_scale_times_that_of_a_linear_one() -> None:
    x, upstream = torch.randn(100), torch.randn(100)
    linear, log = (gradients(place(calibrated(log_scale=log_scale), 0.25), x, upstream)[0] for log_scale in (False, True))
    assert log == pytest.approx(0.25 * linear, rel=1e-4)  # exp(log(1/4)) in float32 moves cancelling sums


class TestScaleFloor:
    @pytest.mark.parametrize("scale", [-0.01, 0.0, SCALE_FLOOR / 2])
    @pytest.mark.parametrize("published", [False, True], ids=["default", "published"])
    def test_a_scale_below_the_floor_quantizes_with_the_floor(self, published: bool, scale: float) -> None:
        quantizer = place(calibrated(published=published), scale)
        assert quantizer(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx([-4 * SCALE_FLOOR, 0, 3 * SCALE_FLOOR])

    def test_it_can_rise_again(self) -> None:
        quantizer = place(calibrated(), -0.01)
        assert gradients(quantizer, torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]))[0] == 3 + 4

    @pytest.mark.parametrize(("scale", "gradient"), [(-0.01, 0.0), (SCALE_FLOOR / 2, 0.0), (SCALE_FLOOR, 7.0)])
    def test_published_it_is_dead_below_the_floor_and_alive_on_it(self, scale: float, gradient: float) -> None:
        quantizer = place(calibrated(published=True), scale)
        assert gradients(quantizer, torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]))[0] == gradient

    @pytest.mark.parametrize("scale", [-0.01, 0.0, 1e-6, torch.tensor(1e-5).item()])
    def test_published_for_transformers_it_is_higher_and_lets_the_gradient_through(self, scale: float) -> None:
        quantizer = place(calibrated(published=True, ste_range="position"), scale)
        floor = torch.tensor(1e-5)
        assert torch.equal(quantizer(torch.tensor([-1.0, 0.0, 1.0])), torch.stack([-4 * floor, 0 * floor, 3 * floor]))
        assert quantizer.double().grid(torch.zeros(1)).scale.item() == floor.item()  # the float32 number
        assert gradients(quantizer.float(), torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]))[0] == 3 + 4

    @pytest.mark.parametrize(
        ("options", "lifted"),
        [({}, SCALE_FLOOR), ({"published": True}, -0.01), ({"log_scale": True}, -0.01)],
        ids=["default", "published", "log"],
    )
    def test_lifting(self, options: dict[str, bool], lifted: float) -> None:
        quantizer = calibrated(**options)
        with torch.no_grad():
            quantizer.scale.fill_(-0.01)
        quantizer.lift_scale()
        assert quantizer.scale.item() == pytest.approx(lifted)

    @pytest.mark.parametrize("scale", [math.nan, math.inf])
    @pytest.mark.parametrize("published", [False, True], ids=["default", "published"])
    def test_a_scale_that_is_not_finite_stays_visible(self, published: bool, scale: float) -> None:
        quantizer = place(calibrated(published=published), scale)
        assert quantizer(torch.tensor([1.0])).isnan().all()


class TestZeroPoint:
    @pytest.mark.parametrize(("zero_point", "rounded"), [(-1.7, 0), (0.4, 0), (1.5, 2), (2.5, 2), (7.4, 7), (16.7, 7)])
    def test_it_is_rounded_to_even_and_clamped_to_the_codes(self, zero_point: float, rounded: int) -> None:
        quantizer = place(calibrated(symmetric=False), 0.5, zero_point)
        assert quantizer.grid(torch.zeros(1)).zero_point == rounded

    @pytest.mark.parametrize("published", [False, True], ids=["default", "published"])
    @pytest.mark.parametrize("zero_point", [-1.7, -0.5, 3.3, 7.5, 7.4, 16.7])
    @pytest.mark.parametrize("rounding", [STE(), StackedSigmoid(2.0), EWGS()], ids=lambda rounding: type(rounding).__name__)
    def test_its_gradient_in_closed_form(self, rounding: Rounding, zero_point: float, published: bool) -> None:
        scale, x, upstream = 0.25, torch.randn(200).double(), torch.randn(200).double()
        quantizer = place(calibrated(symmetric=False, rounding=rounding, published=published).double(), scale, zero_point)
        rounded = round(zero_point)  # Python too rounds half to even
        codes = (x / scale).round() + min(max(rounded, 0), 7)
        to_code = scale * float(upstream[(codes >= 0) & (codes <= 7)].sum())
        to_value = -scale * float(upstream.sum())
        parts = [to_code, to_value] if published else [to_code + to_value]
        t = torch.tensor(zero_point, dtype=torch.float64)
        expected = (
            sum(float(rounding.factor(t, torch.tensor(part, dtype=torch.float64))) * part for part in parts) if 0 <= rounded <= 7 else 0.0
        )
        assert gradients(quantizer, x, upstream)[1] == pytest.approx(expected, rel=1e-9, abs=1e-12)  # float64 sums in another order

    def test_two_uses_matter_under_ewgs_alone(self) -> None:
        x, upstream = torch.randn(200), torch.randn(200)

        def both(rounding: Rounding) -> list[float]:
            options = {"symmetric": False, "rounding": rounding}
            return [gradients(place(calibrated(published=flag, **options), 0.25, 3.3), x, upstream)[1] for flag in (False, True)]

        default, published = both(STE())
        assert published == pytest.approx(default, rel=1e-4)  # float32 sums that cancel
        default, published = both(EWGS())
        assert published != pytest.approx(default, rel=1e-2)
