"""What follows from the length of a run: how far back frequencies look, and which thresholds then make sense.

A frequency is an exponential moving average, `frequency += momentum * (oscillated - frequency)`, so it looks back over a window of
`1 / momentum` steps, and one oscillation adds `momentum` to it. The published runs (arXiv 2203.11086: 20 and more epochs of
ImageNet) average over 1,000 steps. A shorter run averages over a fifth of its steps, so that frequencies have settled when freezing
is a quarter into the run, and over 20 steps at least, below which no average is one.
"""

import logging

LONGEST = 1_000
SHORTEST = 20
SHARE = 1 / 5  # of a run
DEFAULT = 1 / 100  # where the length of the run is not known

LOWEST_THRESHOLD = 0.01  # published, for the end of a run at 4 bits

_log = logging.getLogger("stillbit")


def momentum_for(steps: int | None) -> float:
    """Return the weight of the present step in averages over a run.

    >>> [momentum_for(steps) for steps in (None, 80, 2_000, 5_000, 200_000)]
    [0.01, 0.05, 0.0025, 0.001, 0.001]
    """
    if steps is None:
        return DEFAULT
    return 1.0 / min(max(steps * SHARE, SHORTEST), LONGEST)


def final_threshold_for(threshold: float, momentum: float) -> float:
    """Return the threshold at the end of a run: one that a single oscillation does not pass, but two in a window do.

    >>> [final_threshold_for(0.1, momentum) for momentum in (0.001, 0.02, 0.2)]
    [0.01, 0.04, 0.1]
    """
    return min(threshold, max(LOWEST_THRESHOLD, 2.0 * momentum))


def warn_if_short(name: str, momentum: float, steps: int | None) -> None:
    """Say at the start that a run ends before its averages are full: frequencies stay low, and little or nothing is frozen."""
    if steps is not None and is_short(momentum, steps):
        _log.warning(
            "%s: ema_momentum %g averages over %.0f steps, the run has %d: frequencies stay low; "
            "allowed: %.2g or more, or None, which follows from steps",
            name, momentum, 1.0 / momentum, steps, 1.0 / steps,
        )  # fmt: skip


def is_short(momentum: float, steps: int) -> bool:
    """Return whether a run is shorter than the window of its averages."""
    return 1.0 / momentum > steps
