"""Bias and scale of a layer that gives codes, such that every sum of products that can be gets the code that exact arithmetic gives.

A kernel has whole numbers alone for a bias: it gives `round(multiplier * (times * factor * sum + bias))`, where
`round(slope * sum + offset)` is meant. Sums are whole numbers, too, and networks of few bits have few of them: pictures with a plain
ground meet one and the same sum at thousands of places, and a bias that is half a unit off moves all of these to the next code. But
between two codes everything depends on the two sums next to the turn. So of the biases near the wanted one, and of the multipliers within a
thousandth of theirs (a twentieth, where that is not enough), those are taken that have each turn where it belongs.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from stillbit.export.onnx.builder import Array

_FACTORS = 8  # that are tried of those allowed: the ones that meet the bias best
_STEPS = (0, 1, -1)  # of the bias, from the nearest whole number
_FREEDOMS = (1e-3, 5e-2)  # of a multiplier; the second where the first leaves a sum nearer to a wrong code than rounding errors allow
_NEAR = 1e-4  # steps
_LARGEST = 2**30  # of a bias: half of int32


@dataclass(frozen=True)
class Requantization:
    """What sums of an output channel become; one element per channel.

    Attributes:
        slope: Steps of the output a unit of the sum, float64, not 0.
        offset: Of the output, in its steps.
        least: Smallest sum that can be.
        most: Largest.
        first: Smallest code of the output, its zero point taken off.
        last: Largest.
    """

    slope: Array
    offset: Array
    least: Array
    most: Array
    first: int
    last: int

    def fit(self, limits: Array, times: int = 1) -> tuple[Array, Array, Array, Array]:
        """Choose what keeps each channel's sums farthest from the wrong code.

        Args:
            limits: Largest factor of each channel.
            times: What the input's codes are multiplied by already.

        Returns:
            By channel: how far that is, in steps of the output (below 0: some sum gets a wrong code; minus infinity: no bias fits int32),
            factors, biases, multipliers.
        """
        best: Array = np.full(len(self.slope), -np.inf)
        found = [np.ones_like(limits), np.zeros_like(limits), self.slope]
        tries = self._factors(limits, times)
        for freedom in _FREEDOMS:
            open_ = best < _NEAR
            for factors, step in product(tries, _STEPS):
                biases = np.rint(self.offset / self.slope * factors * times) + step
                distances, multipliers = self._distances(factors * times, biases, freedom)
                better = open_ & (distances > best) & (np.abs(biases) < _LARGEST)
                best = np.where(better, distances, best)
                found = [np.where(better, new, old) for new, old in zip((factors, biases, multipliers), found, strict=True)]
            if not (best < _NEAR).any():
                break
        return best, found[0].astype(np.int64), found[1].astype(np.int64), found[2]

    def _factors(self, limits: Array, times: int) -> Array:
        """Return factors to try, (tries, channels): those with which the bias is nearest to a whole number."""
        every = np.arange(1, int(limits.max(initial=1)) + 1)[:, None]
        units = every * times * (self.offset / self.slope)
        error = np.where(every <= limits, np.abs(units - np.rint(units)) / every, np.inf)
        chosen: Array = np.argsort(error, axis=0, kind="stable")[:_FACTORS] + 1
        return np.minimum(chosen, limits)

    def _distances(self, factors: Array, biases: Array, freedom: float) -> tuple[Array, Array]:
        """Return, by channel, the least distance of a sum from a turn that it must not reach, and the multipliers with that."""
        ends = (np.arange(self.first, self.last) + 0.5)[None]
        turns = np.clip((ends - self.offset[:, None]) / self.slope[:, None], self.least[:, None] - 1, self.most[:, None])
        before = np.floor(turns)
        real = np.stack([before >= self.least[:, None], before < self.most[:, None]])  # whether there are sums before and behind a turn
        under = np.where(self.slope < 0, -1.0, 1.0)[:, None]  # 1: sums before a turn lie under it
        side = np.stack([np.broadcast_to(under, before.shape), np.broadcast_to(-under, before.shape)])
        sums = np.stack([before, before + 1]) * factors[:, None] + biases[:, None]
        multipliers = _middle(sums, ends, np.where(real, side, 0.0), self.slope / factors, freedom)
        distances = np.where(real, side * (ends - multipliers[:, None] * sums), 0.5)
        return distances.min((0, 2), initial=0.5), multipliers


def _middle(sums: Array, ends: Array, side: Array, wanted: Array, freedom: float) -> Array:
    """Return multipliers amid those for which `side * (ends - multiplier * sums) > 0`; the wanted ones where there are none near these."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = ends / sums
    highest = np.where(side * sums > 0, bounds, np.inf).min((0, 2), initial=np.inf)
    lowest = np.where(side * sums < 0, bounds, -np.inf).max((0, 2), initial=-np.inf)
    near = np.abs(wanted) * freedom
    high, low = np.minimum(highest, wanted + near), np.maximum(lowest, wanted - near)
    return np.where(low < high, (low + high) / 2, wanted)
