"""Image data of a run: which images, how they are split and transformed."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from stillbit.errors import DataError, RecipeError
from stillbit.training.augment import AugmentConfig, build_transform
from stillbit.training.digits import Digits
from stillbit.training.samples import SeededDataset, Source

_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "box", "hamming", "lanczos")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how a model wants them.

    Args:
        name: `folder` (root/train/CLASS/*, root/val/CLASS/*), `digits` (bundled with scikit-learn), or a map-style data
            set of timm's factory: `torch/cifar10`, `hfds/OWNER/NAME`.
        root: Folder of the data; `digits` needs none.
        train_split: Name of the training split.
        val_split: Name of the validation split.
        download: Let torchvision download its data set.
        num_classes: Needed only where the data set does not say it.
        image_size: Height and width, in pixels.
        channels: 3 (RGB) or 1 (grey).
        batch_size: Images of a micro-batch, on each process.
        val_batch_size: Images of a validation batch; None means `batch_size`.
        workers: Processes that decode, on each process; 0 decodes in the training process.
        interpolation: `bilinear`, `bicubic`, `nearest`, `box`, `hamming`, `lanczos`, or `random` (of the first two; training only).
        val_interpolation: Likewise for validation images; None means `interpolation`, which then may not be `random`.
        crop_pct: Side of the validation crop as a fraction of the resized image; 0.9 resizes to 248 for 224.
        mean: Channel means of pixels in 0..1; None means ImageNet's (their mean, for grey).
        std: Channel deviations, likewise.
        augment: Augmentation of training images.

    Raises:
        RecipeError: If a value is out of range.
    """

    name: str = "folder"
    root: Path | None = None
    train_split: str = "train"
    val_split: str = "val"
    download: bool = False
    num_classes: int | None = None
    image_size: int = 224
    channels: int = 3
    batch_size: int = 128
    val_batch_size: int | None = None
    workers: int = 4
    interpolation: str = "bilinear"
    val_interpolation: str | None = None
    crop_pct: float = 0.9
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise RecipeError(f"channels is {self.channels}; allowed: 1, 3")
        for name in ("image_size", "batch_size", "val_batch_size", "num_classes"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise RecipeError(f"{name} is {given}; allowed: 1 or more")
        for name, given in (("interpolation", self.interpolation), ("val_interpolation", self.val_interpolation or self.interpolation)):
            allowed = (*_INTERPOLATIONS, "random") if name == "interpolation" else _INTERPOLATIONS
            if given not in allowed:
                raise RecipeError(f"{name} is {given!r}; allowed: {', '.join(allowed)}")
        if self.workers < 0:
            raise RecipeError(f"workers is {self.workers}; allowed: 0 or more")
        if not 0.0 < self.crop_pct <= 1.0:
            raise RecipeError(f"crop_pct is {self.crop_pct}; allowed: above 0, at most 1")
        for name, given in (("mean", self.mean), ("std", self.std)):
            if given is not None and len(given) != self.channels:
                raise RecipeError(f"{name} is {list(given)}; allowed: {self.channels} numbers, one per channel")

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel, for pixels in 0..1."""
        return self.mean or self._imagenet(_IMAGENET_MEAN), self.std or self._imagenet(_IMAGENET_STD)

    def _imagenet(self, rgb: tuple[float, ...]) -> tuple[float, ...]:
        return rgb if self.channels == 3 else (sum(rgb) / 3,)


@dataclass(frozen=True)
class Data:
    """Both splits, ready to be sampled.

    Args:
        train: Training samples, augmented.
        val: Validation samples.
        num_classes: Classes of both.
        config: What they were made from.
    """

    train: SeededDataset
    val: SeededDataset
    num_classes: int
    config: DataConfig


def load_data(config: DataConfig) -> Data:
    """Open both splits."""
    train, val = _open(config, train=True), _open(config, train=False)
    num_classes = _num_classes(config, train, val)
    for split, source in ((config.train_split, train), (config.val_split, val)):
        if len(source) == 0:
            raise DataError(f"data {config.name}: split {split} is empty, allowed: 1 image or more")
    return Data(_samples(config, train, config.augment), _samples(config, val, None), num_classes, config)


def class_names(config: DataConfig) -> tuple[str, ...] | None:
    """Return the names of the classes, in the order of labels, as far as they are at hand: nothing is decoded or fetched.

    Returns:
        The names; None where the data is not there, has no names, or its source would ask the network for them.
    """
    if config.name.startswith("hfds/"):
        return None
    try:
        source = _open(replace(config, download=False), train=False)
    except DataError:
        return None
    named = _class_to_index(source)
    return tuple(sorted(named, key=named.__getitem__)) if named else None


def _open(config: DataConfig, *, train: bool) -> Source:
    split = config.train_split if train else config.val_split
    if config.name == "digits":
        return Digits(train=train)
    if config.name == "folder":
        return _open_folder(config.root, split)
    if config.name.partition("/")[0] not in ("torch", "hfds"):
        raise DataError(f"data name: {config.name!r} given, allowed: folder, digits, torch/NAME, hfds/NAME")
    return _open_timm(config, split)


def _open_folder(root: Path | None, split: str) -> Source:
    from torchvision.datasets import ImageFolder

    if root is None:
        raise DataError("data root: not given, allowed: a folder with train/CLASS/ and val/CLASS/")
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"data root: no folder {folder}, allowed: a folder with train/CLASS/ and val/CLASS/")
    try:
        source: Source = ImageFolder(str(folder))
    except FileNotFoundError as error:  # no class folder, or one without an image
        raise DataError(f"data root: {folder}: {' '.join(str(error).split())}") from None
    return source


def _open_timm(config: DataConfig, split: str) -> Source:
    from timm.data import create_dataset

    root = None if config.root is None else str(config.root)
    try:
        source: Source = create_dataset(config.name, root=root, split=split, download=config.download, input_img_mode=None)
    except ModuleNotFoundError:  # an extra: the verb names it
        raise
    except Exception as error:  # each data set has its own errors; all of them are about the name, the root or the split
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"data {config.name}: split {split} under {root} cannot be opened: {reason}") from error
    return source


def _num_classes(config: DataConfig, train: Source, val: Source) -> int:
    found, other = (_classes(source) for source in (train, val))
    if found is not None and other is not None and found != other:
        raise DataError(
            f"data {config.name}: the classes of {config.train_split} ({len(found)}) are not those of "
            f"{config.val_split} ({len(other)}); first that only one has: {min(set(found) ^ set(other))}"
        )
    if found is not None and config.num_classes not in (None, len(found)):
        raise DataError(f"data {config.name}: num_classes {config.num_classes} given, the data has {len(found)}")
    if found is None and config.num_classes is None:
        raise DataError(f"data {config.name}: does not say how many classes it has, give num_classes")
    return config.num_classes or len(found or ())


def _classes(source: Source) -> list[str] | None:
    return sorted(_class_to_index(source)) or None


def _class_to_index(source: Source) -> dict[str, int]:
    """Return the label of each class by name; nothing where the source has no names."""
    if isinstance(source, Digits):
        return {str(digit): digit for digit in range(source.num_classes)}
    named = getattr(source, "class_to_idx", None) or getattr(getattr(source, "reader", None), "class_to_idx", None)
    return {str(name): int(label) for name, label in (named or {}).items()}


def _samples(config: DataConfig, source: Source, augment: AugmentConfig | None) -> SeededDataset:
    mean, std = config.normalization
    interpolation = config.interpolation if augment is not None else config.val_interpolation or config.interpolation
    transform: Callable[[Any], Tensor] = build_transform(
        augment, config.image_size, config.channels, interpolation, config.crop_pct, mean, std
    )
    return SeededDataset(source, transform, mode="RGB" if config.channels == 3 else "L")
