"""One optimizer step: gradients of all its micro-batches, then the update."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stillbit.oscillation import Method
from stillbit.quantizers import LSQ
from stillbit.training.augment import AugmentConfig, Mixed, mix
from stillbit.training.config import TrainingConfig
from stillbit.training.heads import Heads
from stillbit.training.objective import Objective
from stillbit.training.processes import autocast
from stillbit.training.seeding import MICRO_BATCH, derive_seed, seed_all


class StepFigures(NamedTuple):
    """What a step measured, over all its micro-batches and all ranks."""

    loss: float
    correct: float
    images: float
    told_to_stop: bool


class Stepper:
    """Takes optimizer steps.

    Args:
        network: The model as it is trained: wrapped for several processes, compiled.
        optimizer: Steps once a call of `update`.
        scaler: Of the loss; does nothing unless the precision is fp16.
        accelerator: Joins the processes.
        config: Accumulation, precision, clipping, seed.
        augment: Mixup and cutmix.
        objective: The loss.
        methods: Their penalties are added to the loss where they ask for it.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        accelerator: Accelerator,
        config: TrainingConfig,
        augment: AugmentConfig,
        objective: Objective,
        methods: Sequence[Method],
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self._scaler = scaler
        self._accelerator = accelerator
        self._config = config
        self._augment = augment
        self._objective = objective
        self._methods = methods
        self._learned = [module for module in network.modules() if isinstance(module, LSQ)]

    def accumulate(self, step: int, batches: Iterator[tuple[Tensor, Tensor]], *, told_to_stop: bool = False) -> StepFigures:
        """Compute the gradients of a step. Its figures leave the device before the last backward pass, whose time covers their way.

        Args:
            step: Its number, counted from 1.
            batches: Gives this rank's micro-batches.
            told_to_stop: Whether this rank got a signal; all ranks learn whether any did.

        Returns:
            The mean loss (without penalties) and counts.
        """
        self._optimizer.zero_grad()
        measured: list[Tensor] = []
        last = self._config.accumulation - 1
        for number in range(last + 1):
            batch = self.mix_and_seed(step, number, *next(batches))
            with self._synchronized(number == last):
                loss, heads = self._forward(batch)
                measured.append(_measure(loss, heads, batch))
                if number == last:
                    sums = self._sum_over_ranks(measured, told_to_stop)
                self._scaler.scale((loss + self._penalty(step)) / self._config.accumulation).backward()  # type: ignore[no-untyped-call]
        total_loss, correct, images, flags = sums.tolist()
        num_micro_batches = self._config.accumulation * self._accelerator.num_processes
        return StepFigures(total_loss / num_micro_batches, correct, images, flags > 0)

    def update(self) -> None:
        """Clip the gradients, step, and keep scales from drifting below what forward would use."""
        if self._config.clip_gradient_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._network.parameters(), self._config.clip_gradient_norm)
        self._scaler.step(self._optimizer)  # leaves the step out where an fp16 gradient has overflown
        self._scaler.update()
        for quantizer in self._learned:
            quantizer.lift_scale()

    def mix_and_seed(self, step: int, number: int, images: Tensor, labels: Tensor) -> Mixed:
        """Mix a micro-batch and seed dropout, by its place in the run alone.

        Args:
            step: Number of the step, counted from 1.
            number: Which of this rank's micro-batches of the step.
            images: (N, C, H, W).
            labels: (N).

        Returns:
            The mixed micro-batch.
        """
        place = number * self._accelerator.num_processes + self._accelerator.process_index
        seed = derive_seed(self._config.seed, MICRO_BATCH, step, place)
        seed_all(seed)
        return mix(images, labels, self._augment, seed)

    def _forward(self, batch: Mixed) -> tuple[Tensor, Heads]:
        with autocast(self._config, batch.images.device):
            heads = Heads.of(self._network(batch.images))
        return self._objective.loss(heads, batch), heads

    def _sum_over_ranks(self, measured: list[Tensor], told_to_stop: bool) -> "HostCopy":
        sums = torch.stack(measured).sum(0)
        flag = sums.new_full((1,), float(told_to_stop))
        return HostCopy(self._accelerator.reduce(torch.cat([sums, flag]), reduction="sum"))

    def _penalty(self, step: int) -> Tensor | float:
        penalties = [method.penalty(step) for method in self._methods if getattr(method, "in_loss", False)]
        return sum((penalty for penalty in penalties if penalty is not None), start=0.0)

    def _synchronized(self, last: bool) -> AbstractContextManager[Any]:
        # Gradients are averaged over the ranks once a step, in its last backward pass.
        context: AbstractContextManager[Any] = nullcontext() if last else self._accelerator.no_sync(self._network)
        return context


class HostCopy:
    """Numbers on their way from the device: made before work is launched and read after it, the device goes on with that work meanwhile.

    Args:
        values: Any tensor. One on CUDA begins to move at once; of any other device, reading waits for all that was launched.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True) if values.is_cuda else values
        self._arrived = torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None

    def tolist(self) -> list[float]:
        """Wait for the numbers, and return them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers


def _measure(loss: Tensor, heads: Heads, batch: Mixed) -> Tensor:
    # Filled, not copied from the host: a copy out of ordinary memory makes the host wait for the device.
    correct = (heads.prediction.argmax(1) == batch.labels).sum()
    return torch.stack([loss.detach().double(), correct.double(), loss.new_full((), len(batch.labels), dtype=torch.float64)])
