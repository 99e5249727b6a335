"""Batches on the training device: decoding in workers, transfer, normalization, checks of what came out."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from stillbit.errors import DataError
from stillbit.training.data import Data
from stillbit.training.sampler import OrderedSampler, SampleKey, StepSampler
from stillbit.training.samples import Batch, SeededDataset, collate
from stillbit.training.seeding import CALIBRATION
from stillbit.training.session import Session


class Batches:
    """Iterable of `(images, labels)` on a device; images are float and normalized.

    A broken image is left out of its batch and counted in `skipped`.

    Args:
        dataset: Samples, uint8 (not normalized) or float (normalized).
        sampler: Gives lists of sample keys, a batch each.
        data: Number of classes, workers, mean and deviation.
        session: Where images and labels go, and the images' type and memory format.
        skip_empty: Pass over a batch none of whose images can be read; else it is an error.
    """

    def __init__(
        self,
        dataset: SeededDataset,
        sampler: Sampler[list[SampleKey]],
        data: Data,
        session: Session,
        skip_empty: bool = False,
    ) -> None:
        workers = data.config.workers
        self.skipped: Counter[str] = Counter()
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type]  # a DataLoader yields what collate returns
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=session.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_leave_process_group,
        )
        self._num_classes = data.num_classes
        self._session = session
        self._skip_empty = skip_empty
        # Pixels are 0..255, mean and deviation belong to 0..1.
        mean, std = (torch.tensor(values, device=session.device, dtype=session.dtype) * 255 for values in data.config.normalization)
        self._mean, self._std = mean.view(-1, 1, 1), std.view(-1, 1, 1)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, in the sampler's order.

        Raises:
            DataError: If no image of a batch is whole, a label is out of range, or an image is not finite.
        """
        for number, batch in enumerate(self._loader, start=1):
            self.skipped.update(broken.name for broken in batch.broken)
            if len(batch.labels) == 0 and self._skip_empty:
                continue
            self._check(batch, number)
            images = batch.images.to(self._session.device, non_blocking=True)
            raw = images.dtype == torch.uint8
            images = images.to(self._session.dtype, memory_format=self._session.memory_format)
            if raw:
                images.sub_(self._mean).div_(self._std)
            yield images, batch.labels.to(self._session.device, non_blocking=True)

    def _check(self, batch: Batch, number: int) -> None:
        if len(batch.labels) == 0:
            first = batch.broken[0]
            raise DataError(f"batch {number}: none of its images can be read; first: {first.name}: {first.reason}")
        wrong = batch.labels[(batch.labels < 0) | (batch.labels >= self._num_classes)]
        if len(wrong):
            allowed = f"0 to {self._num_classes - 1}"
            raise DataError(f"batch {number}: label {wrong[0].item()} given, allowed: {allowed}")
        if batch.nonfinite is not None:
            raise DataError(f"batch {number}: image {batch.nonfinite} holds a value that is not finite")


def calibration_batches(data: Data, session: Session, *, seed: int) -> Batches:
    """Return an epoch of batches that ranges are found on, float32: training images, shuffled and augmented, as published."""
    sampler = StepSampler(len(data.train), data.config.batch_size, seed, rank=session.rank, world=session.world)
    sampler.begin(0, purpose=CALIBRATION)
    return Batches(data.train, sampler, data, replace(session, dtype=torch.float32, memory_format=torch.contiguous_format))


def validation_batches(data: Data, session: Session) -> Batches:
    """Return the batches of the validation split, each image once over all ranks; the last one may be smaller."""
    batch_size = data.config.val_batch_size or data.config.batch_size
    sampler = OrderedSampler(len(data.val), batch_size, session.rank, session.world)
    return Batches(data.val, sampler, data, session, skip_empty=True)


def _leave_process_group(worker: int) -> None:  # noqa: ARG001 - the loader gives its number
    # Ctrl-C and most job managers signal the whole process group. A worker that died of it would fail the step that the
    # trainer still has to finish. (Ignoring the signals instead would keep the trainer from ending its workers.)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
