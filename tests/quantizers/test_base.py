"""What all quantizers share: flags, pins, state, compilation. Each test runs on every kind."""

import copy
import functools
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError, RecipeError
from stillbit.numerics import EWGS, Stochastic
from stillbit.numerics.gate import Gate
from stillbit.numerics.grid import value
from stillbit.numerics.limits import FREE
from stillbit.numerics.prologue import Prologue
from stillbit.quantizers import LSQ, FixedRange, Quantizer, StatsQ

KINDS: dict[str, Callable[..., Quantizer]] = {
    "lsq": LSQ,
    "lsq-asymmetric": functools.partial(LSQ, symmetric=False),
    "lsq-log": functools.partial(LSQ, log_scale=True),
    "fixed": FixedRange,
    "fixed-asymmetric": functools.partial(FixedRange, symmetric=False),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def calibrated(kind: Callable[..., Quantizer], bits: int = 3, scale_shape: tuple[int, ...] = (1,), *, x_min: float = -1.0) -> Quantizer:
    quantizer = kind(bits, scale_shape)
    ends = torch.linspace(1, 1.7, torch.empty(scale_shape).numel())
    quantizer.set_range(x_min * ends, ends)
    return quantizer


@kinds
@pytest.mark.parametrize("bits", [0, 9, 33, "four", 2.0, True])
def test_bits_out_of_range_are_refused(kind: Callable[..., Quantizer], bits: object) -> None:
    with pytest.raises(RecipeError, match=f"bits is {bits!r}; allowed are whole numbers from 1"):
        kind(bits)


@kinds
@pytest.mark.parametrize("use", ["forward", "code", "position"])
def test_use_without_a_range_is_an_error(kind: Callable[..., Quantizer], use: str) -> None:
    quantizer = kind(3)
    quantizer.label = "blocks.0.weight"
    with pytest.raises(PrepareError, match=r"blocks\.0\.weight has no range yet; run calibrate"):
        getattr(quantizer, use)(torch.zeros(3))


@kinds
def test_bypass_gives_the_input_back(kind: Callable[..., Quantizer]) -> None:
    quantizer, x = kind(3), torch.randn(3)
    quantizer.bypass = True
    assert quantizer(x) is x


@kinds
@pytest.mark.parametrize(
    ("x_min", "x_max", "message"),
    [
        (torch.zeros(3), torch.ones(3), "has 2 scales and was given a range of 3 elements"),
        (torch.zeros(2), torch.tensor([1.0, float("nan")]), "range 0.0 to nan; it must be finite"),
        (torch.tensor([0.0, -torch.inf]), torch.ones(2), "range -inf to 1.0; it must be finite"),
    ],
    ids=["other channels", "nan", "infinite"],
)
def test_a_bad_range_is_refused_and_changes_nothing(kind: Callable[..., Quantizer], x_min: Tensor, x_max: Tensor, message: str) -> None:
    quantizer = kind(3, (2, 1))
    before = copy.deepcopy(quantizer.state_dict())
    with pytest.raises(PrepareError, match=message):
        quantizer.set_range(x_min, x_max)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())
    assert not quantizer.is_calibrated


@pytest.mark.parametrize("kind", [LSQ, FixedRange])
def test_one_bit_is_for_unsigned_latents(kind: Callable[..., Quantizer]) -> None:
    quantizer = kind(1)
    with pytest.raises(PrepareError, match="1 bit and signed latents"):
        quantizer.set_range(-1.0, 1.0)
    quantizer.set_range(0.0, 1.0)
    assert quantizer(torch.tensor([-1.0, 0.4, 0.6, 9.0])).tolist() == [0, 0, 1, 1]


@kinds
@pytest.mark.parametrize("shape", [(8, 257, 192), (197, 192), (2, 3, 197, 192)], ids=str)
def test_an_input_that_the_scales_do_not_fit_is_refused(kind: Callable[..., Quantizer], shape: tuple[int, ...]) -> None:
    quantizer = calibrated(kind, scale_shape=(1, 197, 1))
    quantizer.label = "blocks.0.attn.input_quantizer.quantizer"
    message = (
        "quantizer blocks.0.attn.input_quantizer.quantizer has scales for inputs of shape (*, 197, *) and was given "
        f"{shape}; per-token scales serve one image size, allowed: that size, or activation_scales 'tensor'"
    )
    with pytest.raises(PrepareError) as refused:
        quantizer(torch.zeros(shape))
    assert str(refused.value) == message
    assert quantizer(torch.zeros(8, 197, 192)).shape == (8, 197, 192)


@kinds
@pytest.mark.parametrize(
    ("shape", "scale_shape"),
    [((2, 5, 3, 4), (1, 5, 3, 1)), ((2, 5, 4), (1, 5, 1)), ((2, 5, 4), (1, 1, 4)), ((2, 5, 4), (1, 5, 4))],
    ids=["token and head", "token", "channel", "token and channel"],
)
def test_scales_of_several_axes_quantize_each_slice_alone(
    kind: Callable[..., Quantizer], shape: tuple[int, ...], scale_shape: tuple[int, ...]
) -> None:
    x, whole = torch.randn(shape), calibrated(kind, scale_shape=scale_shape)
    ends = torch.linspace(1, 1.7, torch.empty(scale_shape).numel()).reshape(scale_shape)
    expected, slices = torch.empty(shape), torch.broadcast_to(torch.arange(ends.numel()).reshape(scale_shape), shape)
    for index, end in enumerate(ends.flatten()):
        single = kind(3)
        single.set_range(-end, end)
        expected[slices == index] = single(x[slices == index])
    assert torch.equal(whole(x), expected)


@kinds
@pytest.mark.parametrize("training", [True, False])
def test_forward_changes_no_state(kind: Callable[..., Quantizer], training: bool) -> None:
    quantizer = calibrated(kind).train(training)
    quantizer.allocate_pins(torch.Size([50]))
    before = copy.deepcopy(quantizer.state_dict())
    x = torch.randn(50, requires_grad=True)
    quantizer(x).sum().backward()
    quantizer.code(x)
    quantizer.position(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


@kinds
def test_forward_gives_the_values_of_the_codes(kind: Callable[..., Quantizer]) -> None:
    quantizer, x = calibrated(kind, scale_shape=(4, 1)), torch.randn(4, 50)
    assert torch.equal(quantizer(x), value(quantizer.code(x), quantizer.grid(x)))
    assert quantizer.code(x).requires_grad is False


class TestState:
    @kinds
    @pytest.mark.parametrize("x_min", [-1.0, 0.0], ids=["signed", "unsigned"])
    def test_loading_mirrors_sign_and_readiness(self, kind: Callable[..., Quantizer], x_min: float) -> None:
        source, x = calibrated(kind, x_min=x_min), torch.randn(50)
        for target in (kind(3), calibrated(kind, x_min=-1.0 - x_min)):  # one without a range, one of the other sign
            nn.Sequential(target).load_state_dict(nn.Sequential(source).state_dict(), strict=True)
            assert (target.is_signed, target.is_calibrated, target.limits) == (source.is_signed, True, source.limits)
            assert torch.equal(target(x), source(x))

    @kinds
    def test_loading_by_assignment_mirrors_too(self, kind: Callable[..., Quantizer]) -> None:
        source, target = calibrated(kind), kind(3)
        target.load_state_dict(source.state_dict(), assign=True)
        assert (target.is_signed, target.is_calibrated) == (source.is_signed, True)

    @kinds
    def test_copies_and_pickles_are_whole_and_independent(self, kind: Callable[..., Quantizer]) -> None:
        source, x = calibrated(kind), torch.randn(50)
        source.allocate_pins(x.shape)
        expected = source(x)
        expected.sum().backward() if expected.requires_grad else None
        file = io.BytesIO()
        torch.save(source, file)
        file.seek(0)
        for twin in (copy.deepcopy(source), pickle.loads(pickle.dumps(source)), torch.load(file, weights_only=False)):
            assert torch.equal(twin(x), expected)
            twin.set_range(-8.0, 8.0)
            twin.load_state_dict(source.state_dict())
            assert torch.equal(twin(x), expected)
        assert torch.equal(source(x), expected)

    @kinds
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_dtypes_keep_flags_pins_and_a_usable_grid(self, kind: Callable[..., Quantizer], dtype: torch.dtype) -> None:
        quantizer = calibrated(kind)
        quantizer.allocate_pins(torch.Size([50]))
        quantizer.to(dtype)
        assert quantizer.pins is not None
        assert (quantizer.pins.dtype, quantizer.signed.dtype) == (torch.int8, torch.bool)
        assert quantizer(torch.randn(50, dtype=dtype)).dtype == dtype

    @pytest.mark.parametrize("kind", [LSQ, functools.partial(LSQ, published=True), FixedRange], ids=["lsq", "lsq-published", "fixed"])
    def test_the_floor_of_a_scale_holds_in_float16(self, kind: Callable[..., Quantizer]) -> None:
        quantizer = kind(3)
        quantizer.set_range(0.0, 0.0)
        x = torch.zeros(5, dtype=torch.float16)
        assert torch.equal(quantizer.half()(x), x)  # the scale is 0 now: 0 / 0 without a floor


class TestPins:
    @kinds
    def test_pins_hold_codes_everywhere(self, kind: Callable[..., Quantizer]) -> None:
        quantizer, x = calibrated(kind), torch.randn(50)
        quantizer.allocate_pins(x.shape)
        assert quantizer.pins is not None
        free_codes, free_positions = quantizer.code(x), quantizer.position(x)
        low, high = quantizer.limits
        quantizer.pins[:20] = torch.randint(low, high + 1, (20,)).to(torch.int8)
        codes, grid = quantizer.code(x), quantizer.grid(x)
        assert torch.equal(codes[:20], quantizer.pins[:20].float())
        assert torch.equal(codes[20:], free_codes[20:])
        assert torch.equal(quantizer(x), value(codes, grid))
        assert torch.equal(quantizer.position(x)[:20], codes[:20] - grid.zero_point)
        assert torch.equal(quantizer.position(x)[20:], free_positions[20:])

    @kinds
    def test_a_pinned_latent_written_to_its_value_has_the_pinned_code(self, kind: Callable[..., Quantizer]) -> None:
        quantizer = calibrated(kind)
        low, high = quantizer.limits
        codes = torch.arange(low, high + 1.0)
        assert torch.equal(quantizer.code(value(codes, quantizer.grid(codes))), codes)

    def test_new_pins_are_free_and_part_of_the_state(self) -> None:
        quantizer = LSQ(7)
        assert "pins" not in quantizer.state_dict()
        quantizer.allocate_pins(torch.Size([3, 2]))
        assert (quantizer.state_dict()["pins"] == FREE).all()

    def test_eight_bits_leave_no_room_for_pins(self) -> None:
        with pytest.raises(PrepareError, match="8 bits; pins need at most 7"):
            LSQ(8).allocate_pins(torch.Size([3]))


class TestGate:
    @kinds
    def test_only_latents_near_a_boundary_get_a_gradient(self, kind: Callable[..., Quantizer]) -> None:
        quantizer, upstream = calibrated(kind), torch.randn(500)
        x = (torch.rand(500) * 4 - 2).requires_grad_()
        grid = quantizer.grid(x)
        coordinate = quantizer.position(x) + grid.zero_point
        expected = (coordinate - coordinate.floor() - 0.5).abs() <= 0.2
        expected &= (coordinate >= grid.low) & (coordinate <= grid.high)
        assert quantizer.free(x).all()
        (without,) = torch.autograd.grad(quantizer(x), x, upstream)
        before = quantizer(x)
        quantizer.prologue = Prologue(gate=Gate(0.2))
        assert torch.equal(quantizer.free(x), expected)
        assert 50 < expected.sum() < 200
        gated = quantizer(x)
        assert torch.equal(gated, before)
        assert torch.equal(torch.autograd.grad(gated, x, upstream)[0], torch.where(expected, without, 0.0))

    def test_a_scale_learns_from_all_latents(self) -> None:
        quantizer, x = LSQ(3, ste_range="position"), torch.randn(50, requires_grad=True)
        quantizer.set_range(-1.0, 1.0)
        gradients = []
        for gate in (None, Gate(0.01)):
            quantizer.prologue = Prologue(gate=gate)
            gradients.append(torch.autograd.grad(quantizer(x).square().sum(), quantizer.scale)[0])
        assert torch.equal(*gradients)

    def test_a_pinned_latent_is_never_free(self) -> None:
        quantizer, x = LSQ(3), torch.randn(50)
        quantizer.set_range(-1.0, 1.0)
        quantizer.prologue = Prologue(gate=Gate(0.4))
        quantizer.allocate_pins(x.shape)
        assert quantizer.pins is not None
        quantizer.pins[:25] = 0
        assert not quantizer.free(x)[:25].any()
        assert quantizer.free(x)[25:].any()

    @pytest.mark.parametrize("kind", [LSQ, StatsQ])
    @pytest.mark.parametrize("published", [False, True], ids=["default", "published"])
    def test_it_compiles_into_the_one_graph(self, kind: Callable[..., Quantizer], published: bool) -> None:
        quantizer = calibrated(kind, scale_shape=(4, 1))
        quantizer.prologue = Prologue(gate=Gate(0.2, published))
        torch._dynamo.reset()
        results = []
        for function in (quantizer, torch.compile(quantizer, backend="aot_eager", fullgraph=True)):
            w = torch.linspace(-1, 1, 400).reshape(4, 100).requires_grad_()
            output = function(w)
            output.sum().backward()
            results.append((output.detach(), w.grad))
        assert all(torch.equal(eager, compiled) for eager, compiled in zip(*results, strict=True))
        assert 0 < results[0][1].count_nonzero() < 200


class TestWholeModelCompilation:
    @pytest.mark.integration
    @pytest.mark.parametrize(
        ("options", "memory_format", "dynamic"),
        [
            ({}, torch.channels_last, True),
            ({"symmetric": False, "rounding": EWGS(), "published": True}, torch.contiguous_format, False),
            ({"log_scale": True, "scale_gradient": "lsq", "ste_range": "position"}, torch.channels_last, False),
            ({"rounding": Stochastic()}, torch.contiguous_format, True),
        ],
        ids=["plain-channels_last-dynamic", "asymmetric", "log-channels_last", "stochastic-dynamic"],
    )
    def test_one_graph(self, options: dict[str, object], memory_format: torch.memory_format, dynamic: bool) -> None:
        weight, activation = LSQ(3, (4, 1, 1, 1), **options), LSQ(3, **options)  # type: ignore[arg-type]
        weight.set_range(torch.full((4,), -0.3), torch.full((4,), 0.3))
        activation.set_range(-1.0, 1.2)
        weight.allocate_pins(torch.Size([4, 3, 3, 3]))

        def layer(x: Tensor, w: Tensor) -> Tensor:
            return torch.nn.functional.conv2d(activation(x), weight(w))

        torch._dynamo.reset()
        x = torch.randn(2, 3, 6, 6).to(memory_format=memory_format).requires_grad_()
        w = (torch.randn(4, 3, 3, 3) / 5).to(memory_format=memory_format).requires_grad_()
        learned = [x, w, *weight.parameters(), *activation.parameters()]
        results = []
        for function in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=dynamic)):
            torch.manual_seed(1)
            output = function(x, w)
            results.append((output.detach(), *torch.autograd.grad(output.square().sum(), learned)))
        for compiled, eager in zip(*reversed(results), strict=True):
            # float32: the convolution may take another algorithm, the scales' sums run in another order
            torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5 * float(eager.abs().max()))
