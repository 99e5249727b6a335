"""Findings that are there at once: every picture has all its parts, with few numbers in each."""

import numpy as np
import pytest

from stillbit.toy.experiments import STEPS, Curve, Findings, RowEnd
from stillbit.toy.regression import Trajectory
from stillbit.toy.setups import METHODS, ROWS


@pytest.fixture
def findings() -> Findings:
    curves = {f"distance {number}": Curve((0.1, 0.2), (0.2, 0.4), (0.2, 0.4)) for number in (1, 2)}
    return Findings(
        methods={name: saw_tooth(number) for number, name in enumerate(METHODS)},
        frequency_by_distance=curves | {"without a line": Curve((0.1, 0.2), (0.1, 0.2))},
        frequency_by_rate=curves,
        amplitude_by_rate=curves,
        frequency_by_dampening=curves,
        rows={name: RowEnd(1.0, 2.0, 1.5, 0.5, 0.1) for name in ROWS},
    )


def saw_tooth(number: int) -> Trajectory:
    """A weight whose code flips at every third step from `number` on."""
    codes = (np.arange(STEPS) % 3 == 0).astype(float)[:, None]
    codes[:number] = 0.0
    return Trajectory(0.45 + 0.1 * codes, codes, codes, np.cumsum(codes, axis=0), codes[:, 0], np.ones(STEPS))
