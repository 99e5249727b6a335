"""Randomness as a function of names: every draw of a run follows from its seed and from what it is for.

No generator state travels from step to step, so none can be lost: a resumed run, another number of workers or another
number of ranks draws the same numbers for the same sample and the same micro-batch.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# What a seed is for; part of the keys, so that no two purposes share a stream.
ORDER = 0
MICRO_BATCH = 1
REESTIMATION = 2
CALIBRATION = 3
POPULATION = 4


def derive_seed(*keys: int) -> int:
    """Mix several whole numbers into one seed."""
    # numpy takes (0, 1) and (0, 1, 0) for the same, so the number of keys goes first.
    return int(np.random.SeedSequence((len(keys), *keys)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed python, numpy and torch's CPU generator for a block, and put their states back after it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
