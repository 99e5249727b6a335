"""Timing in pairs: each contender with its reference, round by round, so that a machine that slows down slows both."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

Run = Callable[[], object]
WARM_UP_ROUNDS = 2


@dataclass
class Pairs:
    """Times of a contender and of its reference, in milliseconds."""

    own: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Return one ratio per round."""
        return [mine / base for mine, base in zip(self.own, self.reference, strict=True)]


def race(contenders: Mapping[str, tuple[Run, Run]], *, rounds: int, device: str = "cpu") -> dict[str, Pairs]:
    """Time all contenders in turn, round by round."""
    times = {name: Pairs() for name in contenders}
    for round_number in range(-WARM_UP_ROUNDS, rounds):
        for name, (run, reference) in contenders.items():
            if round_number % 2:
                base = milliseconds(reference, device)
                own = milliseconds(run, device)
            else:
                own = milliseconds(run, device)
                base = milliseconds(reference, device)
            if round_number >= 0:
                times[name].own.append(round(own, 3))
                times[name].reference.append(round(base, 3))
    return times


def milliseconds(run: Run, device: str = "cpu") -> float:
    """Time one call, until its work on the device is done."""
    _wait(device)
    begin = time.perf_counter()
    run()
    _wait(device)
    return 1e3 * (time.perf_counter() - begin)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
