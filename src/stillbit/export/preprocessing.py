"""What an image goes through before a network sees it, as a value that a file can carry. Needs Pillow, numpy and torch."""

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stillbit.errors import DataError, ExportError

_RESAMPLING = {each.name.lower(): each for each in Image.Resampling}
# What Pillow raises on a file that is cut, empty, no image, or of a size that no image has.
_BROKEN = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, crop the center, scale pixels to 0..1, normalize: what validation in training does, bit for bit.

    Args:
        image_size: Height and width of the crop, in pixels.
        short_side: Shorter side of the resized image, in pixels; at least `image_size`.
        interpolation: `nearest`, `box`, `bilinear`, `hamming`, `bicubic` or `lanczos`.
        mean: Means of the channels, for pixels in 0..1; three mean RGB, one means grey.
        std: Deviations, likewise.

    Raises:
        ExportError: If a value is out of range.
    """

    image_size: int
    short_side: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.short_side:
            raise ExportError(f"preprocessing: crop of {self.image_size} out of {self.short_side} pixels; allowed: 1 to all of them")
        if self.interpolation not in _RESAMPLING:
            raise ExportError(f"preprocessing: interpolation {self.interpolation!r}; allowed: {', '.join(sorted(_RESAMPLING))}")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or not all(each > 0.0 for each in self.std):
            raise ExportError(f"preprocessing: mean {list(self.mean)}, std {list(self.std)}; allowed: 1 or 3 of both, std above 0")

    def __call__(self, image: Image.Image) -> Tensor:
        """Return what the network sees of an image, float32 of shape (channels, image_size, image_size)."""
        mode = "RGB" if len(self.mean) == 3 else "L"
        small = self._crop(self._resize(image if image.mode == mode else image.convert(mode)))
        pixels = torch.from_numpy(np.array(small)).reshape(self.image_size, self.image_size, len(self.mean))
        values = pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        mean, std = (torch.tensor(each, dtype=torch.float32) * 255 for each in (self.mean, self.std))
        return values.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))

    def read(self, path: Path) -> Tensor:
        """Return what the network sees of an image file.

        Args:
            path: Anything that Pillow opens.

        Raises:
            DataError: If it cannot be read.
        """
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")  # grey networks too: as folders of images are read in training
        except _BROKEN as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise DataError(f"image {path}: cannot be read ({reason})") from None
        return self(image)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> "Preprocessing":
        """Return what `to_mapping` gave.

        Raises:
            ExportError: If a value is missing, unknown, or out of range.
        """
        try:
            values: dict[str, Any] = {
                name: tuple(map(float, value)) if isinstance(value, list) else value for name, value in mapping.items()
            }
            return Preprocessing(**values)
        except (AttributeError, TypeError, ValueError) as error:
            raise ExportError(f"preprocessing: {' '.join(str(error).split())}") from None

    def _resize(self, image: Image.Image) -> Image.Image:
        short, long = sorted(image.size)
        if short == self.short_side:
            return image
        longer = int(self.short_side * long / short)
        size = (self.short_side, longer) if image.width <= image.height else (longer, self.short_side)
        return image.resize(size, _RESAMPLING[self.interpolation])

    def _crop(self, image: Image.Image) -> Image.Image:
        left, top = (round((side - self.image_size) / 2) for side in image.size)
        return image.crop((left, top, left + self.image_size, top + self.image_size))
