from collections import Counter
from itertools import chain

import pytest

from stillbit.errors import DataError
from stillbit.training.sampler import OrderedSampler, SampleKey, StepSampler
from stillbit.training.seeding import REESTIMATION


def micro_batches(accumulation: int, rank: int = 0, world: int = 1, repeats: int = 1, **begin: int) -> list[list[SampleKey]]:
    sampler = StepSampler(50, batch_size=4, seed=3, accumulation=accumulation, rank=rank, world=world, repeats=repeats)
    sampler.begin(**{"epoch": 1, **begin})
    batches = list(sampler)
    assert len(sampler) == len(batches)
    return batches


def test_every_sample_comes_at_most_once() -> None:
    samples = [key.sample for key in chain(*micro_batches(1))]
    assert len(samples) == len(set(samples)) == 48  # 12 steps of 4; 2 of 50 are left out
    assert set(samples) <= set(range(50))


def test_repeated_samples_come_as_often_as_asked_each_time_with_a_seed_of_its_own() -> None:
    keys = list(chain(*micro_batches(1, repeats=3)))
    times = Counter(key.sample for key in keys)
    assert len(keys) == 48
    assert set(times.values()) == {3}
    assert len({key.seed for key in keys}) == 48


def test_repetition_that_does_not_divide_the_epoch_ends_in_a_part() -> None:
    assert sorted(Counter(key.sample for key in chain(*micro_batches(1, repeats=7))).values()) == [6, *[7] * 6]


def test_reestimation_does_not_repeat() -> None:
    assert micro_batches(1, repeats=3, purpose=REESTIMATION) == micro_batches(1, purpose=REESTIMATION)


@pytest.mark.parametrize("first_step", [1, 5])
def test_a_repeated_epoch_may_begin_anywhere(first_step: int) -> None:
    assert micro_batches(2, repeats=3, first_step=first_step) == micro_batches(2, repeats=3)[2 * first_step :]


def test_two_ranks_see_what_one_process_sees_of_repeated_samples() -> None:
    ranks = [micro_batches(accumulation=1, rank=rank, world=2, repeats=3) for rank in range(2)]
    assert list(chain(*zip(*ranks, strict=True))) == micro_batches(accumulation=2, repeats=3)


def test_two_ranks_see_what_one_accumulating_process_sees() -> None:
    alone = micro_batches(accumulation=2)
    ranks = [micro_batches(accumulation=1, rank=rank, world=2) for rank in range(2)]
    assert list(chain(*zip(*ranks, strict=True))) == alone


def test_accumulating_ranks_deal_out_micro_batches_in_turn() -> None:
    alone = micro_batches(accumulation=6)
    ranks = [micro_batches(accumulation=3, rank=rank, world=2) for rank in range(2)]
    assert list(chain(*zip(*ranks, strict=True))) == alone


@pytest.mark.parametrize("first_step", [0, 1, 5, 6])
def test_begin_leaves_out_the_first_steps(first_step: int) -> None:
    assert micro_batches(2, first_step=first_step) == micro_batches(2)[2 * first_step :]


def test_num_steps_ends_the_stream_early() -> None:
    assert micro_batches(2, num_steps=2) == micro_batches(2)[:4]


@pytest.mark.parametrize("other", [{"epoch": 2}, {"purpose": REESTIMATION}], ids=["epoch", "purpose"])
def test_streams_differ_in_order_and_seeds(other: dict[str, int]) -> None:
    first, second = list(chain(*micro_batches(1))), list(chain(*micro_batches(1, **other)))
    assert [key.sample for key in first] != [key.sample for key in second]
    assert not {key.seed for key in first} & {key.seed for key in second}


def test_too_few_samples_for_a_step_are_an_error() -> None:
    with pytest.raises(DataError, match="7 images given, one step needs 8"):
        StepSampler(7, batch_size=2, seed=0, accumulation=2, world=2)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [1, 10, 11])
def test_ordered_ranks_share_every_sample_once(num_samples: int, world: int) -> None:
    samplers = [OrderedSampler(num_samples, 4, rank, world) for rank in range(world)]
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(given) for given in batches]
    assert sorted(key.sample for given in batches for batch in given for key in batch) == list(range(num_samples))
