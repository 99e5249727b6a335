"""The toy of arXiv 2203.11086, section 2.2: one weight, a target between two grid points.

Under the plain straight-through estimator the weight flips forever; under dampening and under freezing it holds still.
"""

import torch
from torch import nn

from stillbit.oscillation import Dampening, Freezing, Tracking
from tests.oscillation.small_models import one_weight

TARGET = 0.252  # between the values 0.2 and 0.4, whose codes meet at 0.3


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.ones(1, 1)) - TARGET).square().sum().backward()
        optimizer.step()


def oscillations(treat: str) -> tuple[int, float]:
    """Return the oscillations of the last 200 of 400 steps, and the weight's value at the end."""
    model = one_weight(TARGET)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    if treat == "dampening":
        Dampening(model, weight=1.0).attach(optimizer)
    if treat == "freezing":
        Freezing(model, threshold=0.2, ema_momentum=0.05).attach(optimizer)
    history = Tracking(model, totals=True).attach(optimizer).tracker.histories
    fit(model, optimizer, 200)
    total = history["0"].total
    assert total is not None
    early = int(total)
    fit(model, optimizer, 200)
    return int(total) - early, model(torch.ones(1, 1)).item()


def test_it_oscillates_under_the_plain_estimator() -> None:
    assert oscillations("nothing")[0] > 20


def test_it_stops_under_dampening() -> None:
    count, value = oscillations("dampening")
    assert count == 0
    assert torch.tensor(value) == torch.tensor(0.2)


def test_it_stops_under_freezing_at_the_nearer_value() -> None:
    count, value = oscillations("freezing")
    assert count == 0
    assert torch.tensor(value) == torch.tensor(0.2)
