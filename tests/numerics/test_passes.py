"""One pass over many weights is the pass over each."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from stillbit.numerics import Grid, kernels
from stillbit.numerics.fast import part, passes, run_pass, settings
from stillbit.numerics.grid import code, value
from stillbit.numerics.kernels import CanonicalGrid

ALONE = [pytest.param(1, id="each-alone"), pytest.param(1 << 40, id="end-to-end")]
CONVOLUTION, LINEAR = (6, 4, 3, 3), (6, 5)


class Snapped(NamedTuple):
    count: Tensor
    latent: Tensor


def snap(weight: Snapped, grid: CanonicalGrid, factor: Tensor, more: float) -> tuple[()]:
    """Add a multiple of the codes to a count, and move the latents to their values."""
    count, latent = weight
    (codes,) = kernels.code(latent, grid, None)
    count.add_(codes * factor + more)
    latent.copy_(kernels.value(codes, grid))
    return ()


def snapped(count: Tensor, latent: Tensor, grid: Grid, factor: float, more: float) -> tuple[Tensor, Tensor]:
    codes = code(latent, grid)
    values = value(codes, grid).reshape(latent.shape)
    return count + (codes * factor + more).to(count.dtype), values.to(latent.dtype)


def symmetric(*scale_shape: int, bits: int = 3) -> Grid:
    return Grid(torch.rand(scale_shape) / 4 + 0.1, 0, 0.0, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


WEIGHTS = {
    "one-scale": lambda: (torch.randn(CONVOLUTION), symmetric(1)),
    "scale-of-more-axes": lambda: (torch.randn(LINEAR), symmetric(1, 1, 1, 1)),
    "scale-a-channel": lambda: (torch.randn(CONVOLUTION), symmetric(6, 1, 1, 1)),
    "other-bits": lambda: (torch.randn(LINEAR), symmetric(1, bits=5)),
    "half-a-step": lambda: (torch.randn(LINEAR), Grid(torch.rand(6, 1) + 0.1, 0, 0.5, -2, 1)),
    "asymmetric": lambda: (
        torch.rand(CONVOLUTION),
        Grid(torch.rand(6, 1, 1, 1) + 0.1, torch.randint(0, 4, (6, 1, 1, 1)).float(), 0.0, 0, 7),
    ),
    "channels-last": lambda: (torch.randn(CONVOLUTION).contiguous(memory_format=torch.channels_last), symmetric(6, 1, 1, 1)),
    "scale-an-input": lambda: (torch.randn(CONVOLUTION), symmetric(1, 4, 1, 1)),
    "one-row": lambda: (torch.randn(1, 5), symmetric(1)),
    "with-gaps": lambda: (torch.randn(12, 10)[::2, ::2], symmetric(1)),
    "bfloat16": lambda: (torch.randn(LINEAR).bfloat16(), symmetric(6, 1)),
    "float64": lambda: (torch.randn(LINEAR).double(), symmetric(6, 1)),
}


@pytest.mark.parametrize("alone_from", ALONE)
def test_all_weights_in_one_pass(alone_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "alone_from", alone_from)
    weights = [make() for make in WEIGHTS.values()]
    counts = [torch.zeros(latent.shape) for latent, _ in weights]  # contiguous, whatever the latent is
    counts[list(WEIGHTS).index("with-gaps")] = torch.zeros(12, 10)[::2, ::2]
    wanted = [snapped(count, latent, grid, 0.5, 0.25) for count, (latent, grid) in zip(counts, weights, strict=True)]
    factors = [torch.full((1,), 0.5, dtype=torch.promote_types(latent.dtype, torch.float32)) for latent, _ in weights]
    run_pass(
        snap,
        (part(Snapped(count, latent), 2, grid, factor) for count, (latent, grid), factor in zip(counts, weights, factors, strict=True)),
        0.25,
    )
    for name, count, (latent, _), (wanted_count, wanted_latent) in zip(WEIGHTS, counts, weights, wanted, strict=True):
        assert torch.equal(count, wanted_count), name
        assert torch.equal(latent, wanted_latent), name


@pytest.mark.parametrize("alone_from", ALONE)
def test_what_is_only_read_is_not_written(alone_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def count_only(weight: Snapped, *rest: Any) -> tuple[()]:
        return snap(Snapped(weight.count, weight.latent.clone()), *rest)

    monkeypatch.setattr(settings, "alone_from", alone_from)
    latent, count = torch.randn(LINEAR), torch.zeros(LINEAR)
    before, version = latent.clone(), latent._version
    run_pass(count_only, [part(Snapped(count, latent), 1, symmetric(1), torch.ones(1))], 0.0)
    assert count.count_nonzero() > 0
    assert torch.equal(latent, before)
    assert latent._version == version


def test_small_weights_of_a_kind_go_together_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    monkeypatch.setattr(passes, "run", lambda _, weight, grid, *__: calls.append([weight.count.numel(), grid.scale.numel()]))
    monkeypatch.setattr(settings, "alone_from", 100)
    sizes, grid = (10, 20, 100, 30, 200), symmetric(1)
    weights = [part(Snapped(torch.zeros(size // 5, 5), torch.zeros(size // 5, 5)), 1, grid, torch.ones(1)) for size in sizes]
    weights.append(part(Snapped(torch.zeros(7), torch.zeros(7)), 1, symmetric(1, bits=4), torch.ones(1)))
    weights.append(part(Snapped(torch.zeros(8), torch.zeros(8).bfloat16()), 1, grid, torch.ones(1)))
    weights.append(part(Snapped(torch.zeros(9, device="meta"), torch.zeros(9, device="meta")), 1, grid, torch.ones(1)))
    run_pass(snap, weights, 0.0)
    assert calls == [[100, 1], [200, 1], [60, 60], [7, 7], [8, 8], [9, 9]]  # elements, scales


def test_no_weight_is_no_call() -> None:
    run_pass(snap, [], 0.0)


def test_axes_of_size_1_do_not_part_a_large_weight_from_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(passes, "run", lambda _, *arguments, **__: calls.append(arguments[0].count.data_ptr()))
    monkeypatch.setattr(settings, "alone_from", 1)
    latent = torch.empty_strided((6, 4, 1, 1), (4, 1, 4, 4))  # channels-last
    count = torch.zeros(6, 4, 1, 1)
    assert latent.stride() != count.stride()
    run_pass(snap, [part(Snapped(count, latent), 2, symmetric(1), torch.ones(1))], 0.0)
    assert calls == [count.data_ptr()]
