import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stillbit.training.sampler import SampleKey
from stillbit.training.samples import Broken, SeededDataset, collate


class Pictures:
    """Grey images; number 1 raises what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if self.error is not None and index == 1:
            raise self.error
        return Image.new("L", (2, 2), color=index), index


def noisy(image: Image.Image) -> Tensor:
    drawn = random.random() + float(np.random.rand()) + torch.rand(()).item()
    return torch.tensor(np.array(image), dtype=torch.float64).flatten() + drawn


def test_augmentation_follows_from_the_key_alone() -> None:
    dataset = SeededDataset(Pictures(), noisy)
    first = dataset[SampleKey(5, 2)]
    torch.manual_seed(99)
    again, other = dataset[SampleKey(5, 2)], dataset[SampleKey(6, 2)]
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_drawing_in_the_data_set_leaves_the_process_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    SeededDataset(Pictures(), noisy)[SampleKey(5, 0)]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_images_are_converted(mode: str, channels: int) -> None:
    seen: list[str] = []

    def note(image: Image.Image) -> Tensor:
        seen.append(image.mode)
        return torch.zeros(channels)

    SeededDataset(Pictures(), note, mode)[SampleKey(0, 0)]
    assert seen == [mode]


@pytest.mark.parametrize("error", [OSError("image file is\n truncated"), SyntaxError("broken PNG")], ids=["cut", "png"])
def test_a_broken_image_is_named(error: Exception) -> None:
    found = SeededDataset(Pictures(error), noisy)[SampleKey(0, 1)]
    assert found == Broken("sample 1", " ".join(str(error).split()))


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(KeyError):
        SeededDataset(Pictures(KeyError("bug")), noisy)[SampleKey(0, 1)]


def test_collate_sets_broken_images_aside() -> None:
    images = [torch.full((1, 2, 2), value, dtype=torch.uint8) for value in (3, 4)]
    broken = Broken("b.jpg", "cut")
    batch = collate([(images[0], 7), broken, (images[1], 8)])
    assert torch.equal(batch.images, torch.stack(images))
    assert batch.labels.tolist() == [7, 8]
    assert batch.broken == (broken,)


@pytest.mark.parametrize(("value", "found"), [(float("nan"), 1), (float("inf"), 1), (3e38, None)], ids=["nan", "inf", "sum-overflows"])
def test_collate_finds_the_first_image_that_is_not_finite(value: float, found: int | None) -> None:
    images = [torch.zeros(1, 2, 2), *[torch.full((1, 2, 2), value)] * 2]
    assert collate([(image, 0) for image in images]).nonfinite == found


@pytest.mark.parametrize("worker", [None, object()], ids=["training-process", "worker"])
def test_a_worker_collates_into_shared_memory(worker: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: worker)
    assert collate([(torch.zeros(1, 2, 2, dtype=torch.uint8), 0)]).images.is_shared() == (worker is not None)


def test_collate_of_nothing_whole_is_empty() -> None:
    batch = collate([Broken("b.jpg", "cut")])
    assert len(batch.images) == len(batch.labels) == 0
