"""Which samples a rank sees, in which order.

The order of an epoch is one stream that depends on the seed and the epoch alone. It is cut into micro-batches of
`batch_size`; within a step, micro-batch `a * world + r` is the a-th of rank r. So two ranks see exactly what one process
sees that accumulates two micro-batches, and a run can begin at any step without decoding what came before.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from stillbit.errors import DataError
from stillbit.training.seeding import ORDER, derive_seed


class SampleKey(NamedTuple):
    """What a sampler gives to a dataset: where the sample is, and the seed of its augmentation."""

    seed: int
    sample: int


def steps_per_epoch(num_samples: int, images_per_step: int) -> int:
    """Return the whole optimizer steps that a data set fills."""
    steps = num_samples // images_per_step
    if not steps:
        raise DataError(f"training data: {num_samples} images given, one step needs {images_per_step}")
    return steps


class StepSampler(Sampler[list[SampleKey]]):
    """Micro-batches of one rank in a shuffled stream; whole optimizer steps only.

    Samples that fill no whole step are left out of that epoch; the next one shuffles again.

    Args:
        num_samples: Size of the data set.
        batch_size: Samples of a micro-batch.
        seed: Seed of the run.
        accumulation: Micro-batches that a rank accumulates for one step.
        rank: This process, 0 to world - 1.
        world: Number of processes.
        repeats: How often a sample that is chosen for a training epoch comes in it, each time with a seed of its own (repeated
            augmentation, arXiv 1902.05509). The epoch keeps its length, so it has as many times fewer samples. The copies are neighbours;
            timm's sampler deals them out to the ranks instead, of which the gradient of a step knows nothing.

    Raises:
        DataError: If the data set does not fill one step.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
    ) -> None:
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._seed = seed
        self._accumulation = accumulation
        self._rank = rank
        self._world = world
        self._repeats = repeats
        self._stream = (ORDER, 0)
        self.steps_per_epoch = steps_per_epoch(num_samples, batch_size * accumulation * world)
        self._steps = range(self.steps_per_epoch)

    def begin(self, epoch: int, first_step: int = 0, num_steps: int | None = None, purpose: int = ORDER) -> None:
        """Choose what the next iteration gives.

        Args:
            epoch: Selects the stream.
            first_step: Steps of the stream to leave out.
            num_steps: Steps to give, at most; None means all.
            purpose: Selects the stream, see `stillbit.training.seeding`.
        """
        end = self.steps_per_epoch if num_steps is None else min(first_step + num_steps, self.steps_per_epoch)
        self._stream = (purpose, epoch)
        self._steps = range(first_step, end)

    def __len__(self) -> int:
        """Return the number of micro-batches of this rank."""
        return len(self._steps) * self._accumulation

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield this rank's micro-batches."""
        generator = np.random.default_rng(derive_seed(self._seed, *self._stream))
        order = generator.permutation(self._num_samples)
        if self._stream[0] == ORDER:  # statistics are better of many samples
            order = order.repeat(self._repeats)[: self._num_samples]
        seeds = generator.integers(0, 2**63, self._num_samples)
        for step in self._steps:
            for a in range(self._accumulation):
                micro_batch = (step * self._accumulation + a) * self._world + self._rank
                part = slice(micro_batch * self._batch_size, (micro_batch + 1) * self._batch_size)
                pairs = zip(seeds[part].tolist(), order[part].tolist(), strict=True)
                yield [SampleKey(seed, index) for seed, index in pairs]


class OrderedSampler(Sampler[list[SampleKey]]):
    """Every sample once, in order, dealt out to the ranks one by one; nothing is padded or left out.

    Args:
        num_samples: Size of the data set.
        batch_size: Samples of a batch; the last one may be smaller.
        rank: This process, 0 to world - 1.
        world: Number of processes.
    """

    def __init__(self, num_samples: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self._indices = range(rank, num_samples, world)
        self._batch_size = batch_size

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return -(-len(self._indices) // self._batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield this rank's batches."""
        for first in range(0, len(self._indices), self._batch_size):
            yield [SampleKey(index, index) for index in self._indices[first : first + self._batch_size]]
