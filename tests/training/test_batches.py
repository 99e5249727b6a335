import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stillbit.errors import DataError
from stillbit.training.batches import Batches, calibration_batches, validation_batches
from stillbit.training.data import Data, DataConfig, load_data
from stillbit.training.sampler import StepSampler
from stillbit.training.samples import SeededDataset
from stillbit.training.session import LOCAL


class Numbers:
    """Samples whose image and label are given by functions of the index."""

    def __init__(self, image: Callable[[int], Tensor], label: Callable[[int], int], count: int = 8) -> None:
        self.image, self.label, self.count = image, label, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in (1, 6):
            raise OSError("image file is truncated")
        return self.image(index), self.label(index)


def as_data(source: Numbers, workers: int = 0, val_batch_size: int = 4) -> Data:
    samples = SeededDataset(source, lambda image: image)
    config = DataConfig(batch_size=4, workers=workers, val_batch_size=val_batch_size, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Data(samples, samples, num_classes=10, config=config)


def pixels(value: int) -> Tensor:
    return torch.full((3, 2, 2), value, dtype=torch.uint8)


def test_images_are_normalized_on_the_device() -> None:
    data = as_data(Numbers(lambda _: pixels(255), lambda _: 0))
    images, _ = next(iter(validation_batches(data, replace(LOCAL, dtype=torch.float64))))
    assert images.dtype == torch.float64
    assert images.unique().tolist() == [2.0]  # (1 - 0.5) / 0.25


def test_normalization_rounds_twice() -> None:
    """Each result is that of one subtraction and one division, whatever makes it faster."""
    data = as_data(Numbers(pixels, lambda _: 0))
    images = torch.cat([images for images, _ in validation_batches(data, LOCAL)])
    pixel = torch.tensor([0.0, 2, 3, 4, 5, 7])
    assert torch.equal(images[:, 0, 0, 0], (pixel - 127.5) / 63.75)


def test_float_images_are_taken_as_they_are() -> None:
    data = as_data(Numbers(lambda _: torch.full((3, 2, 2), 0.75), lambda _: 0))
    images, _ = next(iter(validation_batches(data, LOCAL)))
    assert images.unique().tolist() == [0.75]


def test_memory_format() -> None:
    data = as_data(Numbers(lambda _: pixels(0), lambda _: 0))
    images, _ = next(iter(validation_batches(data, replace(LOCAL, memory_format=torch.channels_last))))
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_counted(workers: int) -> None:
    batches = validation_batches(as_data(Numbers(pixels, lambda index: index), workers), LOCAL)
    for _ in range(2):
        assert [labels.tolist() for _, labels in batches] == [[0, 2, 3], [4, 5, 7]]
    assert batches.skipped == {"sample 1": 2, "sample 6": 2}


def test_validation_passes_over_a_batch_of_nothing_but_broken_images() -> None:
    batches = validation_batches(as_data(Numbers(pixels, lambda index: index), val_batch_size=1), LOCAL)
    assert [labels.item() for _, labels in batches] == [0, 2, 3, 4, 5, 7]


def test_training_does_not() -> None:
    data = as_data(Numbers(pixels, lambda index: index))
    batches = Batches(data.train, StepSampler(8, batch_size=1, seed=0), data, LOCAL)
    with pytest.raises(DataError, match=r"batch \d: none of its images can be read; first: sample [16]: image file is truncated"):
        list(batches)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    data = as_data(Numbers(pixels, lambda index: label if index == 5 else 0))
    with pytest.raises(DataError, match=f"batch 2: label {label} given, allowed: 0 to 9"):
        list(validation_batches(data, LOCAL))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_refused(value: float) -> None:
    data = as_data(Numbers(lambda index: torch.full((3, 2, 2), value if index == 5 else 0.0), lambda _: 0))
    with pytest.raises(DataError, match="batch 2: image 1 holds a value that is not finite"):
        list(validation_batches(data, LOCAL))


def test_workers_do_not_change_augmentation() -> None:
    streams = []
    for workers in (0, 2):
        data = load_data(DataConfig(name="digits", image_size=8, batch_size=50, workers=workers))
        streams.append(list(calibration_batches(data, LOCAL, seed=3)))
    assert len(streams[0]) == 28
    for (images, labels), (others, other_labels) in zip(*streams, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_calibration_ranks_see_other_images() -> None:
    data = load_data(DataConfig(name="digits", image_size=8, batch_size=50, workers=0))
    first, second = (next(iter(calibration_batches(data, replace(LOCAL, rank=rank, world=2), seed=0))) for rank in range(2))
    assert not torch.equal(first[0], second[0])


def test_workers_leave_the_process_group_that_signals_go_to() -> None:
    source = Numbers(lambda _: torch.tensor([[[float(os.getpgrp())]]]), lambda _: 0)
    images, _ = next(iter(validation_batches(as_data(source, workers=1), LOCAL)))
    assert images[0].item() != float(os.getpgrp())
