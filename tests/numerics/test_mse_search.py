import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stillbit.errors import RecipeError
from stillbit.numerics.mse_search import MSEGoldenSection, MSEGrid
from stillbit.quantizers import FixedRange


def loss(x: Tensor, x_min: float, x_max: float, *, symmetric: bool, bits: int) -> float:
    quantizer = FixedRange(bits, symmetric=symmetric)
    quantizer.set_range(torch.tensor(x_min), torch.tensor(x_max))
    return float((x - quantizer(x)).square().double().sum())


def table(ranges: list[tuple[float, float]], batches: list[Tensor], **kind: Any) -> list[float]:
    return [sum(loss(x, *one, **kind) for x in batches) for one in ranges]


def as_floats(ends: tuple[Tensor, Tensor]) -> tuple[float, float]:
    return ends[0].item(), ends[1].item()


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("one_sided", [True, False], ids=["one_sided", "two_sided"])
def test_grid_takes_the_best_of_all_ranges_over_all_batches(one_sided: bool, symmetric: bool) -> None:
    batches = [torch.randn(200) * (1 + index) + 0.3 for index in range(3)]
    batches = [x.relu() for x in batches] if one_sided else batches
    kind = {"symmetric": symmetric, "bits": 3}
    estimator = MSEGrid(**kind, candidates=12, margin=0.25)
    lowest, highest = batches[0].min().item() - 0.25, batches[0].max().item() + 0.25
    unit = max(-lowest, highest) / 12
    ranges = [(0.0 if one_sided else -j * unit, j * unit) for j in range(1, 13)]
    if not symmetric and not one_sided:
        ranges = [
            (max(low + shift * sign * 2 * high / 7, lowest), min(high + shift * sign * 2 * high / 7, highest))
            for (low, high), shift, sign in itertools.product(ranges, range(2), (1, -1))
        ]
    for seen in range(1, 4):
        found = as_floats(estimator.update(batches[seen - 1]))
        losses = table(ranges, batches[:seen], **kind)
        assert estimator.losses is not None
        assert np.allclose(estimator.losses.reshape(-1), losses, rtol=1e-12)  # float64 sums in another order
        assert found == tuple(float(np.float32(end)) for end in ranges[int(np.argmin(losses))])


def test_grid_sums_losses_and_keeps_the_first_of_equals() -> None:
    estimator = MSEGrid(symmetric=True, bits=2, candidates=4, margin=4.0)
    assert as_floats(estimator.update(torch.zeros(5))) == (0.0, 1.0)  # all four lose nothing
    x = torch.tensor([0.5, 3.0])
    estimator.update(x)
    expected = [[loss(x, 0.0, width, symmetric=True, bits=2) for width in (1.0, 2.0, 3.0, 4.0)]]
    assert np.allclose(estimator.losses, expected, rtol=1e-12)


def test_first_batch_fixes_sides_and_span() -> None:
    estimator = MSEGrid(symmetric=True, bits=4)
    estimator.update(torch.tensor([0.0, 1.0]))
    x_min, x_max = as_floats(estimator.update(torch.tensor([-50.0, 50.0])))
    assert x_min == 0.0
    assert x_max == 1.5


@pytest.mark.parametrize("search", [MSEGrid, MSEGoldenSection])
def test_bits_are_read_at_each_call(search: type[MSEGrid | MSEGoldenSection]) -> None:
    x = torch.randn(400)
    changed = search(symmetric=True, bits=2)
    changed.bits = 8
    assert changed.update(x) == search(symmetric=True, bits=8).update(x)
    assert changed.update(x) != search(symmetric=True, bits=2).update(x)


def test_number_of_skews_is_fixed_at_construction() -> None:
    estimator = MSEGrid(symmetric=False, bits=4, candidates=5)
    estimator.bits = 8
    estimator.update(torch.randn(50))
    assert estimator.losses is not None
    assert estimator.losses.shape == (1, 5, 4, 2)


@pytest.mark.parametrize("search", [MSEGrid, MSEGoldenSection])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_channels_are_searched_apart_within_one_span(search: type[MSEGrid | MSEGoldenSection], symmetric: bool) -> None:
    x = torch.randn(3, 60) * torch.tensor([[0.1], [1.0], [0.3]])
    settings = {"symmetric": symmetric, "bits": 3, "candidates": 20}
    x_min, x_max = search(**settings, channel_axis=0).update(x)
    transposed = search(**settings, channel_axis=1).update(x.T)
    assert torch.equal(transposed[0], x_min)
    assert torch.equal(transposed[1], x_max)
    for channel in range(3):
        alone = search(**settings)
        alone.span = alone._span(x.min().item(), x.max().item())
        assert as_floats(alone.update(x[channel])) == (x_min[channel].item(), x_max[channel].item())


@pytest.mark.parametrize("search", [MSEGrid, MSEGoldenSection])
def test_relative_margin_scales_with_the_tensor(search: type[MSEGrid | MSEGoldenSection]) -> None:
    x = torch.randn(300)
    settings = {"symmetric": True, "bits": 4, "margin_mode": "relative"}
    large, tiny = search(**settings).update(x), search(**settings).update(x / 64)
    # Golden section stops at an absolute tolerance of 1e-5.
    tolerance = 0.0 if search is MSEGrid else 64 * 1e-4
    torch.testing.assert_close(tiny[1] * 64, large[1], rtol=0.0, atol=tolerance)


def test_absolute_margin_is_added() -> None:
    assert MSEGrid(symmetric=True, bits=4, margin=0.5)._span(-2.0, 1.0).widest == 2.5
    assert MSEGrid(symmetric=True, bits=4, margin=0.5, margin_mode="relative")._span(-2.0, 1.0).widest == 3.0


@pytest.mark.parametrize("one_sided", [True, False], ids=["one_sided", "two_sided"])
def test_golden_section_is_near_the_best_of_the_grid(one_sided: bool) -> None:
    x = torch.randn(2000).relu() if one_sided else torch.randn(2000)
    kind = {"symmetric": True, "bits": 4}
    by_grid = loss(x, *as_floats(MSEGrid(**kind).update(x)), **kind)
    by_section = loss(x, *as_floats(MSEGoldenSection(**kind).update(x)), **kind)
    assert by_section <= 1.02 * by_grid  # the loss has small local dips; either search may find the better one


def test_golden_section_forgets_earlier_batches_but_not_their_span() -> None:
    estimator = MSEGoldenSection(symmetric=True, bits=4)
    estimator.update(torch.randn(500) * 3)
    x = torch.randn(500)
    fresh = MSEGoldenSection(symmetric=True, bits=4)
    fresh.span = estimator.span
    assert estimator.update(x) == fresh.update(x)


@pytest.mark.parametrize("search", [MSEGrid, MSEGoldenSection])
def test_one_bit_and_an_all_zero_tensor(search: type[MSEGrid | MSEGoldenSection]) -> None:
    x_min, x_max = search(symmetric=False, bits=1).update(torch.randn(40))
    assert x_min < x_max
    x_min, x_max = search(symmetric=True, bits=4, margin_mode="relative").update(torch.zeros(40))
    assert (x_min, x_max) == (0.0, 0.0)


def test_an_unknown_margin_mode_is_refused() -> None:
    with pytest.raises(RecipeError, match="margin_mode is 'percent'; allowed: absolute, relative"):
        MSEGrid(symmetric=True, bits=4, margin_mode="percent")
