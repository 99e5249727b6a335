"""One optimizer step: gradients of all its micro-batches, then the update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from stillbit.oscillation import Method
from stillbit.training.augment import AugmentConfig, Mixed, mix
from stillbit.training.config import TrainingConfig
from stillbit.training.distill import Distiller
from stillbit.training.heads import Heads
from stillbit.training.objective import objective
from stillbit.training.seeding import MICRO_BATCH, derive_seed, seed_all
from stillbit.training.session import Session


class StepFigures(NamedTuple):
    """What a step measured, over all its micro-batches and all ranks."""

    loss: float
    correct: float
    images: float
    told_to_stop: bool


@final
@dataclass(frozen=True)
class Stepper:
    """Takes optimizer steps.

    Attributes:
        network: The model as it is trained: wrapped for several processes, compiled.
        optimizer: Steps once per `update`.
        scaler: Of the loss; does nothing unless the precision is fp16.
        session: Where the run takes place.
        config: Accumulation, clipping, label smoothing, seed.
        augment: Mixup and cutmix.
        num_classes: Classes of the data.
        methods: Their penalties are added to the loss where they ask for it.
        distiller: Adds the loss against a teacher; None learns from labels alone.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    session: Session
    config: TrainingConfig
    augment: AugmentConfig
    num_classes: int
    methods: Sequence[Method] = ()
    distiller: Distiller | None = None

    def accumulate(self, step: int, batches: Iterator[tuple[Tensor, Tensor]], *, told_to_stop: bool = False) -> StepFigures:
        """Compute the gradients of a step. Its figures are copied to the host while the last backward pass runs.

        Args:
            step: Its number, counted from 1.
            batches: Yields this rank's micro-batches.
            told_to_stop: Whether this rank got a signal; all ranks learn whether any did.

        Returns:
            The mean loss (without penalties) and counts.
        """
        self.optimizer.zero_grad()
        measured: list[Tensor] = []
        last = self.config.accumulation - 1
        for number in range(last + 1):
            batch = self.mix_and_seed(step, number, *next(batches))
            with self._synchronized(number == last):
                loss, heads = self._forward(batch)
                measured.append(_measure(loss, heads, batch))
                if number == last:
                    read = copy_to_host(self._sum_over_ranks(measured, told_to_stop))
                self.scaler.scale((loss + self._penalty(step)) / self.config.accumulation).backward()  # type: ignore[no-untyped-call]
        total_loss, correct, images, flags = read()
        return StepFigures(total_loss / (self.config.accumulation * self.session.world), correct, images, flags > 0)

    def update(self) -> None:
        """Clip the gradients, and step."""
        if self.config.clip_gradient_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_gradient_norm)
        self.scaler.step(self.optimizer)  # leaves the step out where an fp16 gradient has overflown
        self.scaler.update()

    def mix_and_seed(self, step: int, number: int, images: Tensor, labels: Tensor) -> Mixed:
        """Mix this rank's micro-batch `number` of a step, and seed dropout, by its place in the run alone."""
        seed = derive_seed(self.config.seed, MICRO_BATCH, step, number * self.session.world + self.session.rank)
        seed_all(seed)
        return mix(images, labels, self.augment, seed)

    def _forward(self, batch: Mixed) -> tuple[Tensor, Heads]:
        with self.session.autocast():
            heads = Heads.of(self.network(batch.images))
        smoothing, num_classes = self.config.label_smoothing, self.num_classes
        loss = objective(heads, batch, num_classes=num_classes, label_smoothing=smoothing, distiller=self.distiller)
        return loss, heads

    def _sum_over_ranks(self, measured: list[Tensor], told_to_stop: bool) -> Tensor:
        sums = torch.stack(measured).sum(0)
        return self.session.sum_over_ranks(torch.cat([sums, sums.new_full((1,), float(told_to_stop))]))

    def _penalty(self, step: int) -> Tensor | float:
        penalties = [method.penalty(step) for method in self.methods if getattr(method, "in_loss", False)]
        return sum((penalty for penalty in penalties if penalty is not None), start=0.0)

    def _synchronized(self, last: bool) -> AbstractContextManager[Any]:
        # Gradients are averaged over the ranks once per step, in its last backward pass.
        accelerator = self.session.accelerator
        context: AbstractContextManager[Any] = nullcontext() if last or accelerator is None else accelerator.no_sync(self.network)
        return context


def copy_to_host(values: Tensor) -> Callable[[], list[float]]:
    """Begin to copy numbers from their device, and return a function that waits for them.

    On CUDA the copy runs next to what is launched after it; on any other device, reading waits for all that was launched.
    """
    copied = values.to("cpu", non_blocking=True) if values.is_cuda else values
    arrived = torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None

    def read() -> list[float]:
        if arrived is not None:
            arrived.synchronize()
        numbers: list[float] = copied.tolist()
        return numbers

    return read


def _measure(loss: Tensor, heads: Heads, batch: Mixed) -> Tensor:
    # Filled, not copied from the host: a copy out of ordinary memory makes the host wait for the device.
    correct = (heads.prediction.argmax(1) == batch.labels).sum()
    return torch.stack([loss.detach().double(), correct.double(), loss.new_full((), len(batch.labels), dtype=torch.float64)])
