"""Two processes, each with its half of a batch, against one process with the whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from stillbit.errors import DataError
from stillbit.numerics.all_reduce import maximum_over_ranks, mean_over_ranks, minimum_over_ranks, sum_over_ranks
from stillbit.numerics.fast import settings
from stillbit.numerics.ranges import RangeConfig

SETTINGS: list[tuple[dict[str, Any], bool, int | None]] = [
    ({"estimator": "current_minmax"}, True, None),
    ({"estimator": "running_minmax"}, True, 1),
    ({"estimator": "mean_magnitude"}, True, 1),
    ({"search": "grid", "candidates": 30}, True, None),
    ({"search": "grid", "candidates": 10}, False, 1),
    ({"search": "golden_section"}, True, None),
]


def batches() -> list[Tensor]:
    torch.manual_seed(1)
    first = torch.randn(8, 3, 5)
    first[:4] = first[:4].relu()  # rank 0 alone would take it for one-sided
    first[4:] *= 2.0  # and for narrower
    return [first, torch.randn(8, 3, 5)]


def estimate(rows: slice) -> list[tuple[Tensor, Tensor]]:
    settings.compile = False  # compiling in three processes costs more than the arithmetic
    found = []
    for options, symmetric, channel_axis in SETTINGS:
        estimator = RangeConfig(**options).build(symmetric=symmetric, bits=3, channel_axis=channel_axis)
        found += [estimator.update(batch[rows]) for batch in batches()]
    return found


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    own = torch.tensor([1.0 + rank, 5.0 - 4 * rank])
    reduced = [f(own) for f in (minimum_over_ranks, maximum_over_ranks, sum_over_ranks, mean_over_ranks)]
    percentile = RangeConfig(estimator="current_minmax", percentile=10.0).build(symmetric=True, bits=3)
    averaged = percentile.update(torch.linspace(0.0, 1.0, 11) + rank)
    try:
        percentile.update(torch.tensor([0.0, float("nan") if rank else 1.0]))
        refused = False
    except DataError:
        refused = True
    found = {"own": own, "reduced": reduced, "averaged": averaged, "refused": refused, "ranges": estimate(slice(4 * rank, 4 * rank + 4))}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank_main, args=(str(folder),), nprocs=2)  # type: ignore[attr-defined]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.integration
def test_each_reduction(ranks: list[dict[str, Any]]) -> None:
    expected = torch.tensor([[1.0, 1.0], [2.0, 5.0], [3.0, 6.0], [1.5, 3.0]])
    for rank, found in enumerate(ranks):
        assert torch.equal(torch.stack(found["reduced"]), expected)
        assert torch.equal(found["own"], torch.tensor([1.0 + rank, 5.0 - 4 * rank]))  # the argument stays as it was


def test_a_single_process_keeps_its_tensor() -> None:
    x = torch.randn(3)
    assert all(f(x) is x for f in (minimum_over_ranks, maximum_over_ranks, sum_over_ranks, mean_over_ranks))


def test_two_ranks_find_the_range_of_the_whole_batch(ranks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "compile", False)
    whole = estimate(slice(None))
    for index, expected in enumerate(whole):
        # Golden section follows the rounding of float32 sums, which two halves add up in another order.
        tolerance = 1e-3 if index >= len(whole) - len(batches()) else 0.0
        if SETTINGS[index // len(batches())][0].get("estimator") == "mean_magnitude":
            tolerance = 1e-6  # a float32 sum of halves
        for found in ranks:
            torch.testing.assert_close(found["ranges"][index], expected, rtol=0.0, atol=tolerance)
        assert torch.equal(ranks[0]["ranges"][index][1], ranks[1]["ranges"][index][1])


def test_percentiles_are_averaged(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["averaged"][0].item() == pytest.approx(0.6)
        assert found["averaged"][1].item() == pytest.approx(1.4)


def test_a_nan_on_one_rank_is_refused_on_both(ranks: list[dict[str, Any]]) -> None:
    assert [found["refused"] for found in ranks] == [True, True]
