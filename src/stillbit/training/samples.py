"""From a sample key to a batch: seeded decoding and augmentation, broken images set aside."""

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from stillbit.training.sampler import SampleKey
from stillbit.training.seeding import seeded

# What decoders raise on a file that is cut, empty or no image (PIL: OSError; its PNG reader: SyntaxError, struct.error).
_BROKEN = (OSError, SyntaxError, struct.error)


class Source(Protocol):
    """Any map-style data set of (PIL image, class) pairs."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        """Return image and class."""
        ...


class Broken(NamedTuple):
    """In place of a sample that could not be decoded: its name and why."""

    name: str
    reason: str


class Batch(NamedTuple):
    """Collated samples on the CPU; images (N, C, H, W), uint8 or float, labels (N), those left out, the first that is not finite."""

    images: Tensor
    labels: Tensor
    broken: tuple[Broken, ...]
    nonfinite: int | None = None


class SeededDataset(Dataset[tuple[Tensor, int] | Broken]):
    """Decodes and augments a sample; all randomness follows from the seed in the sample's key.

    Args:
        source: Gives PIL images, or whatever `transform` takes.
        transform: Augmentation, down to a tensor (C, H, W).
        mode: PIL mode that an image is converted to, `RGB` or `L`.
    """

    def __init__(self, source: Source, transform: Callable[[Any], Tensor], mode: str = "RGB") -> None:
        self.source = source
        self._transform = transform
        self._mode = mode

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int] | Broken:
        """Return image and class, or what is wrong with the file."""
        with seeded(key.seed):
            try:
                image, label = self.source[key.sample]
                if isinstance(image, Image.Image) and image.mode != self._mode:
                    image = image.convert(self._mode)
                return self._transform(image), int(label)
            except _BROKEN as error:
                return Broken(_name_of(self.source, key.sample), " ".join(str(error).split()))


def collate(samples: Sequence[tuple[Tensor, int] | Broken]) -> Batch:
    """Stack the samples that are whole; in a worker, in memory that the training process shares."""
    broken = tuple(sample for sample in samples if isinstance(sample, Broken))
    whole = [sample for sample in samples if not isinstance(sample, Broken)]
    images: Tensor = default_collate([image for image, _ in whole]) if whole else torch.empty(0)
    labels = torch.tensor([label for _, label in whole], dtype=torch.int64)
    return Batch(images, labels, broken, _first_nonfinite(images))


def _first_nonfinite(images: Tensor) -> int | None:
    # Here and not where the batch arrives, because a worker's time costs the training process none. A sum is one pass and keeps what is
    # not finite; `isfinite` is thirty times slower, and has to decide only where finite numbers may have added up to infinity.
    if not images.is_floating_point() or images.sum().isfinite():
        return None
    found = images.isfinite().flatten(1).all(1).logical_not().nonzero()
    return int(found[0]) if len(found) else None


def _name_of(source: Source, index: int) -> str:
    files = getattr(source, "samples", None)  # torchvision's folder data sets
    return str(files[index][0]) if files is not None else f"sample {index}"
