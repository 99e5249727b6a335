"""Codes of an integer kernel are those of exact arithmetic, at every sum that can be."""

import numpy as np
import pytest

from stillbit.export.onnx.builder import Array
from stillbit.export.onnx.requantization import Requantization

CHANNELS = 400


def needed(seed: int, bits: int, slopes: Array | None = None) -> Requantization:
    generator = np.random.default_rng(seed)
    slope = generator.uniform(0.02, 0.6, CHANNELS) if slopes is None else slopes
    slope = slope * np.where(np.arange(len(slope)) % 3, 1, -1)
    reach = generator.integers(10, 400, len(slope))
    return Requantization(slope, generator.uniform(-10, 10, len(slope)), -reach, reach // 2, 0, 2**bits - 1)


def wrong_sums(wanted: Requantization, factors: Array, biases: Array, multipliers: Array) -> Array:
    """By channel, the number of sums whose code is not the exact one, as a runtime computes it: in float32."""
    counts = []
    for channel in range(len(wanted.slope)):
        sums = np.arange(wanted.least[channel], wanted.most[channel] + 1)
        exact = np.rint(wanted.slope[channel] * sums + wanted.offset[channel]).clip(wanted.first, wanted.last)
        whole = (factors[channel] * sums + biases[channel]).astype(np.float32)
        found = np.rint(whole * np.float32(multipliers[channel])).clip(wanted.first, wanted.last)
        counts.append((exact != found).sum())
    return np.array(counts)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_every_sum_gets_its_code(bits: int, seed: int) -> None:
    wanted = needed(seed, bits)
    limits = np.full(CHANNELS, 15)
    distances, factors, biases, multipliers = wanted.fit(limits)
    assert (distances > 0).mean() > 0.99  # a sum may lie at a turn itself
    assert (wrong_sums(wanted, factors, biases, multipliers)[distances > 1e-5] == 0).all()
    assert ((factors >= 1) & (factors <= limits)).all()
    np.testing.assert_allclose(multipliers * factors, wanted.slope, rtol=0.051)


def test_a_rounded_bias_alone_gives_wrong_codes() -> None:
    wanted = needed(0, 3)
    rounded = np.rint(wanted.offset / wanted.slope)
    assert (wrong_sums(wanted, np.ones(CHANNELS), rounded, wanted.slope) > 0).mean() > 0.3


def test_slopes_that_meet_turns_again_and_again_get_multipliers_further_off() -> None:
    wanted = Requantization(np.array([0.501, 0.248]), np.array([-1.512, -2.47]), np.full(2, -330), np.full(2, 195), 0, 15)
    distances, factors, biases, multipliers = wanted.fit(np.array([42, 15]))
    assert (distances > 5e-4).all()
    assert (wrong_sums(wanted, factors, biases, multipliers) == 0).all()


def test_a_channel_that_is_all_but_off_keeps_its_code() -> None:
    wanted = Requantization(np.array([1e-12, -1e-7]), np.array([2.2, 2.2]), np.full(2, -100), np.full(2, 100), 0, 15)
    distances, factors, biases, multipliers = wanted.fit(np.array([7, 7]))
    assert distances[0] == -np.inf  # no bias fits int32
    assert wrong_sums(wanted, factors, biases, multipliers)[1] == 0
    assert np.abs(biases).max() < 2**31


def test_an_input_that_is_multiplied_leaves_the_bias_more_room() -> None:
    """8-bit codes of few sums, small factors: alone a bias is exact for few channels, with an input times 8 for most."""
    wanted = needed(0, 8, np.random.default_rng(1).uniform(0.3, 0.9, CHANNELS))
    limits = np.full(CHANNELS, 3)
    alone, *_ = wanted.fit(limits)
    distances, factors, biases, multipliers = wanted.fit(limits, 8)
    assert (distances > 1e-5).mean() > 0.9
    assert (alone > 1e-5).mean() < 0.5
    wrong = wrong_sums(wanted, factors * 8, biases, multipliers)
    assert (wrong[distances > 1e-5] == 0).all()
