"""Blocks of memory are used again when nothing refers to them, and never before."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillbit.numerics import Grid, fake_quantize
from stillbit.numerics.fast import workspace
from stillbit.numerics.fast.workspace import Workspace

CPU = torch.device("cpu")
LARGE = 1 << 20  # bytes


def take(space: Workspace, num_bytes: int = LARGE, dtype: torch.dtype = torch.float32) -> Tensor:
    return space.empty((num_bytes // dtype.itemsize,), dtype, CPU)


def test_a_freed_block_is_used_again_also_for_less_and_for_another_dtype() -> None:
    space = Workspace()
    first = take(space, 2 * LARGE)
    address = first.data_ptr()
    del first
    again = take(space, dtype=torch.bfloat16)
    assert again.data_ptr() == address
    assert again.shape == (LARGE // 2,)
    assert again.dtype == torch.bfloat16


def keep_view(x: Tensor) -> object:
    return x[5:].view(-1)


def keep_saved(x: Tensor) -> object:
    return x * torch.ones(len(x), requires_grad=True)


def keep_gradient(x: Tensor) -> object:
    parameter = nn.Parameter(torch.zeros(len(x)))
    parameter.grad = x
    return parameter


def keep_array(x: Tensor) -> object:
    return x.numpy()


def keep_storage(x: Tensor) -> object:
    return x.untyped_storage()


@pytest.mark.parametrize("keep", [keep_view, keep_saved, keep_gradient, keep_array, keep_storage])
def test_a_block_is_in_use_as_long_as_anything_refers_to_it(keep: Callable[[Tensor], object]) -> None:
    space = Workspace()
    first = take(space)
    address, kept = first.data_ptr(), keep(first)
    del first
    assert take(space).data_ptr() != address
    del kept
    assert take(space).data_ptr() == address


def test_the_smallest_block_that_is_large_enough_serves() -> None:
    space = Workspace()
    blocks = {size: take(space, size * LARGE) for size in (3, 1, 2)}
    addresses = {size: block.data_ptr() for size, block in blocks.items()}
    blocks.clear()
    assert take(space, 2 * LARGE - 64).data_ptr() == addresses[2]


def test_of_free_blocks_a_few_are_kept() -> None:
    space = Workspace()
    blocks = [take(space, size * LARGE) for size in (1, 2, 3, 4, 5)]
    blocks.clear()
    larger = take(space, 6 * LARGE)
    assert sorted(len(block) // LARGE for block in space._blocks) == [4, 5, 6]
    del larger


def test_small_tensors_and_other_devices_are_not_its_business() -> None:
    space = Workspace()
    assert take(space, LARGE - 4).device == CPU
    assert space.empty((LARGE,), torch.float32, torch.device("meta")).is_meta
    assert space._blocks == []


def test_threads_get_blocks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Workspace()
    choose = workspace._reference_counts

    def slowly(blocks: list[Any]) -> list[int]:
        counts = choose(blocks)
        time.sleep(0.005)  # long enough for another thread to choose the same
        return counts

    monkeypatch.setattr(workspace, "_reference_counts", slowly)

    def work(number: int) -> bool:
        for _ in range(5):
            mine = take(space).fill_(number)
            time.sleep(0.005)
            if not bool((mine == number).all()):
                return False
            del mine
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_values_and_gradients_of_latents_live_there_but_not_those_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(workspace._shared, "_take", lambda size: asked.append(size) or torch.empty(size, dtype=torch.uint8).numpy())
    grid = Grid(torch.tensor([0.5], requires_grad=True), 0, 0.0, -4, 3)
    parameter = torch.randn(1 << 18, requires_grad=True)
    fake_quantize(parameter, grid, recompute=False).sum().backward()
    assert asked == []  # saved values, and the gradient of a parameter
    fake_quantize(parameter * 1, grid).sum().backward()
    assert asked == [LARGE, LARGE]
