"""A regression with one quantized weight, whose latent oscillates under the straight-through estimator: data in, data out.

    minimize E[(x w* - x q(w))^2] / 2  with  E[x^2] = 1        expected gradient at q(w), passed on to w:  q(w) - w*

Source: "Overcoming Oscillations in Quantization-Aware Training" (ICML 2022, arXiv 2203.11086), section 2.2.
Deviates from it in: the expectation is taken exactly unless `sampled`, so that nothing but the method is random.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillbit.modules import QuantLinear, adopt
from stillbit.oscillation import Method, Tracking
from stillbit.quantizers import Quantizer
from stillbit.schedules import Schedule

Treatment = Callable[[nn.Module], Method]


@dataclass(frozen=True)
class Regression:
    """One weight or several, each with an input of its own: on a fixed grid they do not feel each other.

    Attributes:
        optima: The best float value of each weight.
        starts: Where each latent begins.
        learning_rate: Of plain SGD.
        steps: How many.
        sampled: Each step sees one standard normal input a weight; else the expectation over white inputs.
        seed: Of these inputs, and of stochastic rounding.
    """

    optima: tuple[float, ...]
    starts: tuple[float, ...]
    learning_rate: float
    steps: int
    sampled: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Trajectory:
    """What the weights did; shapes are (steps, weights), or (steps,).

    Attributes:
        positions: Latents in grid steps before each step; a pinned latent stands at its code.
        values: What the forward pass of each step used, in units of the latent.
        codes: The same as codes.
        oscillations: How often each code has switched back so far, as `Tracking` counts: twice a cycle.
        losses: (steps,): the expected loss at these values.
        scales: (steps,): the grid's step.
    """

    positions: NDArray[np.float64]
    values: NDArray[np.float64]
    codes: NDArray[np.float64]
    oscillations: NDArray[np.float64]
    losses: NDArray[np.float64]
    scales: NDArray[np.float64]

    def frequency(self, steps: int) -> NDArray[np.float64]:
        """Return oscillations a step over the last `steps`, by weight."""
        return np.asarray((self.oscillations[-1] - self.oscillations[-1 - steps]) / steps)

    def flips(self) -> NDArray[np.int64]:
        """Return how many forward passes so far used another code than the one before, shape (steps, weights)."""
        return np.cumsum(np.diff(self.codes, axis=0, prepend=self.codes[:1]) != 0, axis=0)

    def amplitude(self, steps: int) -> NDArray[np.float64]:
        """Return the distance from the lowest to the highest position of the last `steps`, in grid steps, by weight."""
        return np.asarray(np.ptp(self.positions[-steps:], axis=0))


def model_of(task: Regression, quantizer: Quantizer) -> nn.Sequential:
    """Return a linear layer with one output and an input for each weight, its latents at their starts."""
    with torch.random.fork_rng(devices=[]):  # the layer draws weights, which are replaced
        linear = nn.Linear(len(task.optima), 1, bias=False)
    layer = adopt(QuantLinear, linear, weight_quantizer=quantizer, input_quantizer=None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(task.starts))
    return nn.Sequential(layer)


def solve(task: Regression, quantizer: Quantizer, treat: Treatment | None = None) -> Trajectory:
    """Train.

    Args:
        task: The regression.
        quantizer: Of the weights, ready for use; its parameters are trained at the same learning rate.
        treat: Makes a method for the model; None: nothing is done against oscillations.

    Raises:
        StillbitError: If the quantizer or the method refuses.
    """
    model = model_of(task, quantizer)
    latent = next(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate)
    if treat is not None:
        treat(model).attach(optimizer)
    history = Tracking(model, totals=True).attach(optimizer).tracker.histories["0"]
    values: list[Tensor] = []
    quantizer.register_forward_hook(lambda _module, _latent, used: values.append(used.detach()[0].clone()))
    positions, scales, totals = [], [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        for _ in range(task.steps):
            positions.append(quantizer.position(latent)[0].clone())
            scales.append(quantizer.grid(latent).scale.detach().clone())
            _step(model, optimizer, task)
            assert history.total is not None
            totals.append(history.total[0].clone())
    return _trajectory(task, positions, values, scales, totals, shift=quantizer.grid(latent).shift)


def from_step(step: int, schedule: Schedule) -> Schedule:
    """Return a schedule that is 0 before a step, counted from 1, and then another one."""
    return lambda now: schedule(now) if now >= step else 0.0


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, task: Regression) -> None:
    count = len(task.optima)
    inputs = torch.diag(torch.randn(count)) if task.sampled else torch.eye(count)
    wanted = inputs @ torch.tensor(task.optima).unsqueeze(1)
    optimizer.zero_grad()
    loss: Tensor = 0.5 * (wanted - model(inputs)).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _trajectory(
    task: Regression, positions: list[Tensor], values: list[Tensor], scales: list[Tensor], totals: list[Tensor], *, shift: float
) -> Trajectory:
    used, steps = _array(values), _array(scales).reshape(-1, 1)
    return Trajectory(
        positions=_array(positions),
        values=used,
        codes=np.round(used / steps - shift),
        oscillations=_array(totals),
        losses=0.5 * np.square(used - np.array(task.optima)).sum(axis=1),
        scales=steps[:, 0],
    )


def _array(tensors: list[Tensor]) -> NDArray[np.float64]:
    return np.asarray(torch.stack(tensors).numpy().astype(np.float64))
