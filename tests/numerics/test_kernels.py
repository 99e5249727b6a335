"""The compiled kernels against their eager twins, and how many of them a model needs."""

import math

import pytest
import torch
from torch import Tensor, nn

from stillbit.numerics import EWGS, STE, Grid, Rounding, StackedSigmoid, Stochastic, fake_quantize, kernels
from stillbit.numerics.fast import compiling, running, settings
from stillbit.numerics.limits import FREE
from stillbit.quantizers import LSQ

COLD = pytest.mark.end_to_end  # a cold compilation takes some seconds


@pytest.fixture
def _always_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "compile_from", 1)
    monkeypatch.setattr(compiling, "_forms", {})


def num_compiled() -> int:
    return compiling.num_compiled().total()


Clip = tuple[float, float] | None


def run(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, pins: Tensor | None, rounding: Rounding, clip: Clip = None
) -> tuple[Tensor, ...]:
    """Return values and gradients."""
    torch.manual_seed(0)
    learned = [tensor.detach().requires_grad_() for tensor in (x, scale, zero_point) if tensor is not None]
    grid = Grid(learned[1], 0 if zero_point is None else learned[2], 0.0, *((-8, 7) if zero_point is None else (0, 15)))
    output = fake_quantize(learned[0], grid, pins=pins, rounding=rounding, clip=clip)
    return output.detach(), *torch.autograd.grad(output, learned, torch.randn_like(output))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("rounding", "scale_shape", "asymmetric", "pinned"),
    [
        (STE(), (1,), False, False),
        (EWGS(), (12, 1, 1, 1), True, True),
        pytest.param(StackedSigmoid(), (1, 20, 1, 1), False, False, marks=COLD),
        pytest.param(Stochastic(), (1,), False, False, marks=COLD),
    ],
    ids=["ste-tensor", "ewgs-channel-asymmetric-pinned", "sigmoid-feature", "stochastic-tensor"],
)
def test_compiled_and_eager_twins_agree(
    rounding: Rounding,
    scale_shape: tuple[int, ...],
    asymmetric: bool,
    pinned: bool,
    request: pytest.FixtureRequest,
) -> None:
    x = torch.randn(12, 20, 3, 3) * 3
    scale = torch.rand(scale_shape) + 0.1
    x.view(-1)[:50] = (torch.arange(50) / 2 - 12) * scale.view(-1)[0]  # ties and limits
    zero_point = torch.randint(4, 12, scale_shape).float() if asymmetric else None
    pins = torch.where(torch.rand_like(x) < 0.3, torch.randint(0, 15, x.shape), FREE).to(torch.int8) if pinned else None
    eager = run(x, scale, zero_point, pins, rounding)
    request.getfixturevalue("_always_compiled")
    before = num_compiled()
    compiled = run(x, scale, zero_point, pins, rounding)
    assert num_compiled() - before == 2  # one forward, one backward
    assert torch.equal(compiled[0], eager[0])
    # latents: exp in stacked sigmoids is another one; scales and zero points: float32 sums in another order, which cancel
    torch.testing.assert_close(compiled[1], eager[1], rtol=0 if not isinstance(rounding, StackedSigmoid) else 1e-6, atol=0)
    for gradient, expected in zip(compiled[2:], eager[2:], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.integration
@pytest.mark.usefixtures("_always_compiled")
def test_one_compilation_serves_layers_of_every_shape_and_width() -> None:
    before = num_compiled()
    for shape in [(8, 3, 3, 3), (16, 1, 5, 5), (24, 8), (40,), (7, 1)]:
        for bits in (2, 4, 8):
            for memory_format in (torch.contiguous_format, torch.channels_last if len(shape) == 4 else torch.contiguous_format):
                quantizer = LSQ(bits)
                quantizer.set_range(-1.0, 1.0)
                latent = nn.Parameter(torch.randn(shape).contiguous(memory_format=memory_format))
                quantizer(latent).sum().backward()
                with torch.no_grad():
                    quantizer(latent)
    assert num_compiled() - before == 2
    for shape in [(8, 3, 3, 3), (16, 5), (4, 4, 3)]:
        for high in (0.0, -1.0):
            quantizer = LSQ(4, (shape[0], *[1] * (len(shape) - 1)))
            quantizer.set_range(torch.full((shape[0],), high), torch.ones(shape[0]))
            quantizer(torch.randn(shape, requires_grad=True)).sum().backward()
    assert num_compiled() - before == 4
    quantizer = LSQ(4, (1, 5, 1))
    quantizer.set_range(-torch.ones(5), torch.ones(5))
    for batch in (2, 3):
        quantizer(torch.randn(batch, 5, 6, requires_grad=True)).sum().backward()
    assert num_compiled() - before == 6


@pytest.mark.usefixtures("_always_compiled")
def test_autocast_and_inference_mode_take_the_same_form() -> None:
    quantizer = LSQ(4)
    quantizer.set_range(-1.0, 1.0)
    x = torch.randn(50)
    before = num_compiled()
    expected = quantizer(x)
    for context in (torch.autocast("cpu", torch.bfloat16), torch.inference_mode()):
        with context:
            assert torch.equal(quantizer(x), expected)
    assert num_compiled() - before == 1


@pytest.mark.integration
@pytest.mark.parametrize("clip", [(0.0, 6.0), (0.0, math.inf)], ids=["relu6", "relu"])
def test_latents_are_clipped_in_the_same_compiled_pass(clip: tuple[float, float], request: pytest.FixtureRequest) -> None:
    x = torch.randn(12, 20, 3, 3) * 4
    x.view(-1)[:3] = torch.tensor([0.0, 6.0, torch.nan])
    eager = run(x, torch.tensor([0.7]), None, None, STE(), clip)
    request.getfixturevalue("_always_compiled")
    before = num_compiled()
    compiled = run(x, torch.tensor([0.7]), None, None, STE(), clip)
    assert num_compiled() - before == 2
    for found, expected in zip(compiled[:2], eager[:2], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("axes", "sums"),
    [
        pytest.param((0, 1, 2, 3), [[0, 2, 3], 1], id="one-scale"),
        pytest.param((0, 2, 3), [[0, 2, 3]], id="scale-a-channel"),
        pytest.param((0, 1, 3), [3, 1, 0], id="scale-a-row"),
    ],
)
def test_while_a_model_is_compiled_images_sum_as_batch_norm_does(
    axes: tuple[int, ...], sums: list[int | list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randint(0, 9, (2, 3, 4, 5)).float()
    seen, plain, expected = [], torch.sum, x.sum(axes, keepdim=True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch, "sum", lambda x, axis, **how: seen.append(axis) or plain(x, axis, **how))
    assert torch.equal(kernels._sum(x, axes), expected)
    assert seen == sums


def test_small_tensors_are_not_worth_a_compiled_call(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(running, "try_compiled", lambda *given: asked.append(next(x for x in given if isinstance(x, Tensor)).numel()))
    for count in (settings.compile_from - 1, settings.compile_from):
        fake_quantize(torch.zeros(count), Grid(torch.ones(1), 0, 0.0, -4, 3))
    assert asked == [settings.compile_from]


@pytest.mark.usefixtures("_always_compiled")
def test_sums_of_millions_keep_their_precision() -> None:
    x = torch.randn(3_000_000, requires_grad=True)
    scale = torch.tensor([0.1], requires_grad=True)
    fake_quantize(x, Grid(scale, 0, 0.0, -4, 3)).sum().backward()
    position = x.detach() / scale.detach()
    codes = position.round().clamp(-4, 3)
    terms = codes.double() - torch.where(codes == position.round(), position, 0.0).double()
    assert scale.grad is not None
    # of the sum of the terms' sizes: torch 2.9 is off by 1.3e-7, 2.15 by less; float32 summed one after the other by 50 times as much
    assert scale.grad.item() == pytest.approx(terms.sum().item(), abs=2e-7 * terms.abs().sum().item())
