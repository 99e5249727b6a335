"""Dtypes, memory orders, shapes and numbers that are not finite."""

import math

import pytest
import torch
from torch import Tensor

from stillbit.numerics import Grid, fake_quantize
from stillbit.numerics.fast import settings
from stillbit.numerics.grid import code, value
from stillbit.numerics.limits import FREE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_latent_comes_back(dtype: torch.dtype) -> None:
    x = torch.randn(50, dtype=dtype, requires_grad=True)
    scale = torch.tensor([0.3], requires_grad=True)
    grid = Grid(scale, 0, 0.0, -4, 3)
    output = fake_quantize(x, grid)
    output.backward(torch.ones_like(output))
    assert x.grad is not None
    assert scale.grad is not None
    assert output.dtype == x.grad.dtype == dtype
    assert scale.grad.dtype == torch.float32
    assert torch.equal(output, value(code(x, grid), grid).to(dtype))


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float64])
def test_scales_of_another_dtype_give_the_codes_of_the_latents_arithmetic(scale_dtype: torch.dtype) -> None:
    x, scale = torch.randn(1000), torch.tensor([0.3], dtype=scale_dtype)
    grid, single = (Grid(each, 0, 0.0, -4, 3) for each in (scale, scale.float()))
    assert torch.equal(fake_quantize(x, grid), fake_quantize(x, single))
    assert torch.equal(code(x, grid), code(x, single))


def test_autocast_changes_nothing() -> None:
    x, grid = torch.randn(6, 20), Grid(torch.rand(6, 1) + 0.1, 0, 0.0, -4, 3)
    plain = fake_quantize(x, grid)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fake_quantize(x, grid), plain)


@pytest.mark.parametrize("scale_shape", [(1,), (4, 1, 1, 1), (1, 3, 1, 1), (4, 3, 1, 1), (1, 3, 5, 1)])
@pytest.mark.parametrize("form", ["channels-last", "transposed", "expanded", "with gaps"])
def test_memory_order_changes_nothing_but_itself(form: str, scale_shape: tuple[int, ...]) -> None:
    x = {
        "channels-last": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "transposed": torch.randn(4, 5, 3, 5).transpose(1, 2),
        "expanded": torch.randn(4, 3, 1, 5).expand(4, 3, 5, 5),
        "with gaps": torch.randn(4, 3, 5, 10)[..., ::2],
    }[form].double()
    upstream = torch.randn(4, 3, 5, 5, dtype=torch.float64).transpose(0, 1).contiguous().transpose(0, 1)  # another order than x
    results = []
    for latent in (x, x.contiguous()):
        latent = latent.detach().requires_grad_()
        scale = (torch.arange(1.0, 1 + math.prod(scale_shape)) / 8).reshape(scale_shape).double().requires_grad_()
        output = fake_quantize(latent, Grid(scale, 0, 0.0, -4, 3))
        results.append((output, *torch.autograd.grad(output, [latent, scale], upstream)))
    (output, to_x, to_scale), (plain_output, plain_to_x, plain_to_scale) = results
    assert torch.equal(output, plain_output)
    assert torch.equal(to_x, plain_to_x)
    torch.testing.assert_close(to_scale, plain_to_scale, rtol=1e-12, atol=1e-12)  # float64, sums in another order
    if form in ("channels-last", "transposed") and sum(size > 1 for size in scale_shape) < 2:
        assert output.stride() == to_x.stride() == x.stride()


def test_pins_keep_their_place_in_channels_last() -> None:
    x = torch.randn(4, 3, 5, 5)
    pins = torch.where(torch.rand_like(x) < 0.5, torch.randint(-4, 3, x.shape), FREE).to(torch.int8)
    grid = Grid(torch.rand(4, 1, 1, 1) + 0.1, 0, 0.0, -4, 3)
    plain = fake_quantize(x, grid, pins=pins)
    assert torch.equal(fake_quantize(x.to(memory_format=torch.channels_last), grid, pins=pins), plain)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (), (1,), (1, 1)])
def test_empty_and_single(shape: tuple[int, ...]) -> None:
    x, scale = torch.full(shape, 0.6, requires_grad=True), torch.tensor([0.5], requires_grad=True)
    output = fake_quantize(x, Grid(scale, 0, 0.0, -4, 3))
    output.sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert output.shape == x.grad.shape == x.shape
    assert scale.grad.item() == pytest.approx(-0.2 * x.numel(), rel=1e-6)  # round(1.2) - 1.2 in float32


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_can_be_changed_in_place(memory_format: torch.memory_format, compiled: bool) -> None:
    """As `x += shortcut` and in-place activations of many models do."""
    grid = Grid(torch.tensor([0.5]), 0, 0.0, -4, 3)

    def add(x: Tensor) -> Tensor:
        output = fake_quantize(x, grid)
        output += x
        return output

    torch._dynamo.reset()
    x = torch.full((2, 3, 4, 4), 0.6).contiguous(memory_format=memory_format).requires_grad_()
    (gradient,) = torch.autograd.grad((torch.compile(add, backend="eager", fullgraph=True) if compiled else add)(x).sum(), x)
    assert (gradient == 2).all()


def test_the_meta_device_gives_shapes() -> None:
    x = torch.empty(settings.compile_from, 2, device="meta", requires_grad=True)
    output = fake_quantize(x, Grid(torch.ones(1, device="meta"), 0, 0.0, -4, 3))
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert output.shape == gradient.shape == x.shape


def test_nan_stays_visible_and_spares_the_other_latents() -> None:
    x = torch.tensor([math.nan, 0.6], requires_grad=True)
    output = fake_quantize(x, Grid(torch.tensor([0.5]), 0, 0.0, -4, 3))
    output.sum().backward()
    assert output.isnan().tolist() == [True, False]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("infinity", "limit"), [(math.inf, 1.5), (-math.inf, -2.0)])
def test_infinity_takes_the_outermost_code(infinity: float, limit: float) -> None:
    assert fake_quantize(torch.tensor([infinity]), Grid(torch.tensor([0.5]), 0, 0.0, -4, 3)).item() == limit


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(5, requires_grad=True)
    output = fake_quantize(x, Grid(torch.tensor([0.5], requires_grad=True), 0, 0.0, -4, 3))
    (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_vmap_is_refused() -> None:
    grid = Grid(torch.tensor([0.5]), 0, 0.0, -4, 3)
    with pytest.raises(RuntimeError, match="functorch"):
        torch.vmap(lambda row: fake_quantize(row, grid))(torch.randn(3, 4))


@pytest.mark.parametrize("limits", [(0.0, 6.0), (0.0, math.inf)], ids=["relu6", "relu"])
@pytest.mark.parametrize("grid_limits", [(0, 15), (-8, 7)], ids=["unsigned", "signed"])
def test_clipping_first_is_the_same_as_an_activation_before(limits: tuple[float, float], grid_limits: tuple[int, int]) -> None:
    results = []
    for folded in (True, False):
        x = torch.cat([torch.tensor([0.0, 6.0, -0.1, 6.1]), 4 * torch.randn(200, generator=torch.Generator().manual_seed(0))])
        x.requires_grad_()
        scale = torch.tensor([0.5], requires_grad=True)  # 6 lies on the unsigned grid
        grid = Grid(scale, 0, 0.0, *grid_limits)
        clipped = x if folded else (torch.relu(x) if limits[1] == math.inf else torch.nn.functional.relu6(x))
        output = fake_quantize(clipped, grid, clip=limits if folded else None)
        output.backward(torch.linspace(-1, 1, len(x)))
        results.append((output.detach(), x.grad, scale.grad))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)
