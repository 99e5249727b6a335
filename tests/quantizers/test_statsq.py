import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stillbit.errors import PrepareError, RecipeError
from stillbit.modules import QuantLinear, adopt
from stillbit.numerics import EWGS, fast
from stillbit.numerics.limits import FREE, SCALE_FLOOR
from stillbit.prepare import scales
from stillbit.prepare.calibrate import calibrate
from stillbit.quantizers import LSQ, StatsQ


def quantized(quantizer: StatsQ, x: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the values and the gradient of the latents."""
    x = x.clone().requires_grad_()
    output = quantizer(x)
    (gradient,) = torch.autograd.grad(output, x, torch.ones_like(x) if upstream is None else upstream)
    return output.detach(), gradient


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("shape", "scale_shape", "reduced"),
    [((6, 20), (1,), (0, 1)), ((6, 20), (6, 1), (1,)), ((3, 6, 20), (1, 6, 1), (0, 2)), ((2, 3, 6, 5), (1, 3, 6, 1), (0, 3))],
    ids=["tensor", "row", "row of 3 axes", "two axes"],
)
def test_formula(bits: int, shape: tuple[int, ...], scale_shape: tuple[int, ...], reduced: tuple[int, ...]) -> None:
    x, upstream = torch.randn(shape), torch.randn(shape)
    quantizer = StatsQ(bits, scale_shape)
    half = 2 ** (bits - 1)
    scale = 2 * x.double().abs().mean(reduced, keepdim=True).float()
    code = (x / scale * half - 0.5).round().clamp(-half, half - 1)
    values, gradient = quantized(quantizer, x, upstream)
    assert torch.equal(quantizer.code(x), code)
    assert torch.equal(values, scale / half * (code + 0.5))
    assert torch.equal(gradient, upstream)  # clipped latents included
    assert quantizer.grid(x).scale.shape == scale_shape


@pytest.mark.parametrize(
    ("bits", "x", "codes"),
    [
        # The mean magnitude of each row is 1/2: the scale is 1 / 2^(bits - 1), and x * 2^(bits - 1) - 1/2 is the position.
        (2, [0.0, 0.5, -0.5, 1.0], [0, 0, -2, 1]),  # -0.5, 0.5, -1.5 are ties to even; 1.5 is clipped
        (2, [-1.0, 1.0, 0.0, -0.0], [-2, 1, 0, 0]),  # -2.5, the lower clip edge, is a tie too
        (3, [0.25, -0.25, 0.75, -0.75], [0, -2, 2, -4]),
        (3, [1.25, -0.5, 0.25, 0.0], [3, -2, 0, 0]),
    ],
    ids=["b2", "b2 clip edges", "b3", "b3 clipped"],
)
def test_ties_go_to_even_codes(bits: int, x: list[float], codes: list[int]) -> None:
    latent = torch.tensor([x])
    assert latent.abs().mean() == 0.5
    assert StatsQ(bits, (1, 1)).code(latent).tolist() == [codes]


@pytest.mark.parametrize("scale_shape", [(1,), (3, 1)], ids=["tensor", "row"])
def test_a_row_of_zeros_is_finite(scale_shape: tuple[int, ...]) -> None:
    x = torch.zeros(3, 4)
    values, gradient = quantized(StatsQ(2, scale_shape), x)
    assert values.tolist() == [[pytest.approx(SCALE_FLOOR / 2)] * 4] * 3
    assert torch.equal(gradient, torch.ones(3, 4))


@pytest.mark.parametrize("bits", [1, 0, 9])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(RecipeError, match=f"bits is {bits}; allowed"):
        StatsQ(bits)


def test_ready_from_the_start_and_without_parameters() -> None:
    quantizer = StatsQ(4, (3, 1))
    assert (quantizer.is_calibrated, quantizer.is_signed, quantizer.limits) == (True, True, (-8, 7))
    assert list(quantizer.parameters()) == []
    assert sorted(quantizer.state_dict()) == ["calibrated", "signed"]
    other = StatsQ(4, (3, 1))
    other.load_state_dict(quantizer.state_dict(), strict=True)
    assert (other.is_calibrated, other.is_signed) == (True, True)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), st.integers(2, 8))
@settings(max_examples=50, deadline=None)
def test_codes_are_in_range_and_keep_the_order(latents: list[float], bits: int) -> None:
    x = torch.tensor(sorted(latents))
    quantizer = StatsQ(bits)
    code, grid = quantizer.code(x), quantizer.grid(x)
    assert bool((code.diff() >= 0).all())
    assert bool(((code >= grid.low) & (code <= grid.high)).all())
    inside = x.abs() <= grid.scale * 2 ** (bits - 1)
    # two float32 roundings of numbers up to 2^(bits-1) grid steps
    assert bool(((x - quantizer(x)).abs() <= grid.scale * (0.5 + 2.0**-22 * 2**bits))[inside].all())


def test_pins_hold_codes_while_pinned_latents_count_in_the_scale() -> None:
    x = torch.tensor([[0.1, -0.3, 0.4, -0.8]])
    quantizer = StatsQ(2, (1, 1))
    quantizer.allocate_pins(x.shape)
    assert quantizer.pins is not None
    scale = quantizer.grid(x).scale
    quantizer.pins[0, 1] = 1
    values, gradient = quantized(quantizer, x)
    assert torch.equal(quantizer.grid(x).scale, scale)
    assert values[0, 1] == scale * 1.5
    assert gradient.tolist() == [[1.0, 0.0, 1.0, 1.0]]
    assert (quantizer.pins == FREE).sum() == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_has_the_codes_of_float32(dtype: torch.dtype) -> None:
    x = torch.randn(4, 200).to(dtype)
    quantizer = StatsQ(3, (4, 1))
    assert torch.equal(quantizer.code(x), quantizer.code(x.float()))
    assert quantizer(x).dtype == dtype


def linear(activation: nn.Module) -> nn.Sequential:
    layer = adopt(QuantLinear, nn.Linear(5, 3), weight_quantizer=StatsQ(3, (3, 1)), input_quantizer=activation)
    layer.weight_quantizer.label = "0.weight_quantizer"
    return nn.Sequential(layer)


class TestCalibration:
    def test_nothing_is_searched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = linear(LSQ(4))
        monkeypatch.setattr(StatsQ, "set_range", lambda *_: pytest.fail("StatsQ was given a range"))
        before = {name: tensor.clone() for name, tensor in model[0].weight_quantizer.state_dict().items()}
        calibrate(model, [torch.randn(4, 5)])
        after = model[0].weight_quantizer.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert model[0].input_quantizer.is_calibrated
        assert len(scales(model)) == 1

    def test_one_that_no_batch_reaches_is_still_named(self) -> None:
        model = linear(nn.Identity())
        model[0].forward = lambda x: x
        with pytest.raises(PrepareError, match=r"never reached 0\.weight_quantizer"):
            calibrate(model, [torch.randn(4, 5)])


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_one_graph(dynamic: bool) -> None:
    quantizer = StatsQ(3, (4, 1))
    torch._dynamo.reset()
    results = []
    for function in (quantizer, torch.compile(quantizer, backend="aot_eager", fullgraph=True, dynamic=dynamic)):
        w = torch.linspace(-1, 1, 40).reshape(4, 10).requires_grad_()
        output = function(w)
        output.square().sum().backward()
        results.append((output.detach(), w.grad))
    assert all(torch.equal(eager, compiled) for eager, compiled in zip(*results, strict=True))


@pytest.mark.end_to_end
def test_a_compiler_that_sums_in_another_order_finds_the_same_scales() -> None:
    quantizer, w = StatsQ(3, (512, 1)), torch.randn(512, 384)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(lambda x: quantizer.grid(x).scale, fullgraph=True)(w), quantizer.grid(w).scale)


def test_the_scale_has_no_gradient() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    assert not StatsQ(2, (3, 1)).grid(x).scale.requires_grad
    assert math.isclose(float(StatsQ(2).grid(x).scale), float(x.detach().abs().mean()), rel_tol=1e-6)


@pytest.mark.parametrize("rounding", [None, EWGS(0.0)], ids=["one pass", "apart"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "transposed"])
@pytest.mark.parametrize("scale_shape", [(1,), (6, 1)], ids=["tensor", "row"])
def test_pins_hold_and_let_no_gradient_pass(rounding: EWGS | None, order: tuple[int, int], scale_shape: tuple[int, ...]) -> None:
    """In the one pass that STE takes, and where scale and values are computed apart (EWGS of no strength is STE)."""
    x, upstream = (torch.randn(6, 20)[:, :6].permute(order), torch.randn(6, 6).mT)
    quantizer = StatsQ(2, scale_shape, rounding=rounding)
    quantizer.allocate_pins(x.shape)
    free, pinned = quantized(quantizer, x), (1, 2)
    quantizer.pins[pinned] = -2
    values, gradient = quantized(quantizer, x, upstream)
    scale = quantizer.grid(x).scale.expand(6, 6)
    assert values[pinned] == -1.5 * scale[pinned]
    assert gradient[pinned] == 0.0
    elsewhere = quantizer.pins == FREE
    assert torch.equal(values[elsewhere], free[0][elsewhere])
    assert torch.equal(gradient[elsewhere], upstream[elsewhere])


@pytest.mark.end_to_end
def test_the_compiled_pass_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, quantizer = torch.randn(64, 48), StatsQ(3, (64, 1))
    quantizer.allocate_pins(x.shape)
    eager = quantized(quantizer, x)
    monkeypatch.setattr(fast.settings, "compile_from", 1)
    assert all(torch.equal(one, other) for one, other in zip(quantized(quantizer, x), eager, strict=True))
