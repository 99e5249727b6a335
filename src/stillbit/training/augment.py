"""Augmentation: timm's transforms for one image, mixup and cutmix for a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from stillbit.errors import RecipeError


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images. The defaults are the published ones: random resized crop and horizontal flip.

    Args:
        scale: Smallest and largest area of the random crop, as fractions of the image.
        ratio: Smallest and largest aspect ratio of the crop.
        hflip: Probability of a horizontal flip.
        color_jitter: Strength of brightness, contrast and saturation jitter; 0 switches it off.
        auto_augment: timm's policy string, for example `rand-m9-mstd0.5`; None switches it off.
        random_erasing: Probability that a rectangle is erased.
        erasing_mode: What it is filled with: `const`, the mean; or `pixel`, normal noise, as published for vision transformers.
        repeats: How often each image of an epoch comes in it, each time augmented again (repeated augmentation, arXiv 1902.05509);
            the epoch keeps its number of images, so it has as many times fewer different ones.
        mixup: Alpha of the beta distribution; 0 switches mixup off.
        cutmix: Likewise for cutmix. With both on, each batch is mixed by one of them, chosen evenly.
        mix_probability: Share of micro-batches that are mixed.

    Raises:
        RecipeError: If a value is out of range.
    """

    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0
    erasing_mode: Literal["const", "pixel"] = "const"
    repeats: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0.0 < pair[0] <= pair[1]:
                raise RecipeError(f"{name} is {list(pair)}; allowed: two ascending numbers above 0")
        for name in ("hflip", "random_erasing", "mix_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RecipeError(f"{name} is {getattr(self, name)}; allowed: 0 to 1")
        for name in ("color_jitter", "mixup", "cutmix"):
            if getattr(self, name) < 0.0:
                raise RecipeError(f"{name} is {getattr(self, name)}; allowed: 0 or more")
        if self.erasing_mode not in ("const", "pixel"):
            raise RecipeError(f"erasing_mode is {self.erasing_mode!r}; allowed: const, pixel")
        if self.repeats < 1:
            raise RecipeError(f"repeats is {self.repeats}; allowed: 1 or more")


class Mixed(NamedTuple):
    """A batch with two labels an image: the first counts `share`, the second the rest."""

    images: Tensor
    labels: Tensor
    other_labels: Tensor
    share: float


def build_transform(
    config: AugmentConfig | None,
    image_size: int,
    channels: int,
    interpolation: str,
    crop_pct: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Callable[[Any], Tensor]:
    """Build the transform of one image."""
    from timm.data import create_transform

    size = (channels, image_size, image_size)
    if config is None:
        transform = create_transform(size, interpolation=interpolation, crop_pct=crop_pct, normalize=False)
    else:
        transform = create_transform(
            size,
            is_training=True,
            scale=config.scale,
            ratio=config.ratio,
            hflip=config.hflip,
            color_jitter=config.color_jitter or None,
            auto_augment=config.auto_augment,
            interpolation=interpolation,
            mean=mean,
            std=std,
            re_prob=config.random_erasing,
            re_mode=config.erasing_mode,
            normalize=config.random_erasing > 0.0,
        )
    return cast(Callable[[Any], Tensor], transform)


def mix(images: Tensor, labels: Tensor, config: AugmentConfig, seed: int) -> Mixed:
    """Mix a batch with itself in reverse order, by mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899)."""
    generator = np.random.default_rng(seed)
    if max(config.mixup, config.cutmix) == 0.0 or generator.random() >= config.mix_probability:
        return Mixed(images, labels, labels, 1.0)
    cut = config.cutmix > 0.0 and (config.mixup == 0.0 or generator.random() < 0.5)
    alpha = config.cutmix if cut else config.mixup
    share = float(generator.beta(alpha, alpha))
    if not cut:
        return Mixed(torch.lerp(images.flip(0), images, share), labels, labels.flip(0), share)
    rows, columns = (_span(side, np.sqrt(1.0 - share), generator) for side in images.shape[2:])
    mixed = images.clone()
    mixed[:, :, rows, columns] = images.flip(0)[:, :, rows, columns]
    cut_area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mixed(mixed, labels, labels.flip(0), 1.0 - cut_area / (images.shape[2] * images.shape[3]))


def _span(side: int, fraction: float, generator: np.random.Generator) -> slice:
    # As in the cutmix paper: the center is uniform, and what sticks out of the image is cut off.
    half = int(side * fraction) // 2
    center = int(generator.integers(side))
    return slice(max(center - half, 0), min(center + half, side))
