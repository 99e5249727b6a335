"""What the tests of watched layers share: training that makes codes flip, and another account of what tracking should see."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillbit.oscillation import Tracking

MOMENTUM = 0.1


def train(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, after_step: Callable[[], None], steps: int = 12) -> None:
    """Take steps of a real gradient, with noise on weights that is a function of the step and makes codes flip."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long)).backward()
        for name, parameter in model.named_parameters():
            if name.endswith(".weight") and parameter.grad is not None:
                parameter.grad += parameter.detach().std() * torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        after_step()


def check_tracking(model: nn.Module, tracking: Tracking, codes: Callable[[], dict[str, Tensor]], images: Tensor) -> None:
    """Train, and count switches and oscillations from the library's own integers; demand the same of the method, bit for bit."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    tracking.attach(optimizer)
    previous = codes()
    directions = {name: torch.zeros_like(code) for name, code in previous.items()}
    frequencies = {name: torch.zeros(code.shape) for name, code in previous.items()}
    totals = {name: torch.zeros_like(code) for name, code in previous.items()}

    def count() -> None:
        for name, code in codes().items():
            moved = (previous[name] - code).sign()
            oscillated = moved * directions[name] == -1
            frequencies[name] = frequencies[name] * (1.0 - MOMENTUM) + oscillated.float() * torch.tensor(MOMENTUM)
            totals[name] += oscillated
            directions[name] = torch.where(moved != 0, moved, directions[name])
            previous[name] = code

    train(model, optimizer, images, count)
    assert tracking.tracker.histories.keys() == previous.keys()
    for name, history in tracking.tracker.histories.items():
        assert torch.equal(history.previous.int(), previous[name]), name
        assert history.total is not None
        assert torch.equal(history.total, totals[name]), name
        assert torch.equal(history.frequency, frequencies[name]), name
    assert sum(int(total.sum()) for total in totals.values()) > 20  # something oscillated
