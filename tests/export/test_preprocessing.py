"""Images as validation in training gives them, without its libraries."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stillbit.deploy import preprocessing_of
from stillbit.errors import DataError, ExportError
from stillbit.export.preprocessing import Preprocessing
from stillbit.training.batches import validation_batches
from stillbit.training.data import DataConfig, load_data
from stillbit.training.session import LOCAL

PLAIN = Preprocessing(image_size=8, short_side=9, interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
SIZES = ((31, 20), (20, 31), (9, 9), (9, 64), (8, 5), (33, 32), (8, 11), (100, 101))  # width, height


def picture(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels.squeeze())


def write_folder(root: Path) -> list[Path]:
    """One picture of each size and mode, in a folder of images of two classes."""
    files = []
    for number, (width, height) in enumerate(SIZES):
        for mode in ("RGB", "L", "P", "RGBA", "1"):
            for split in ("train", "val"):
                file = root / split / ("cat", "dog")[number % 2] / f"{number}{mode}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                picture(width, height).convert(mode).save(file)
            files.append(file)
    return sorted(files)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"])
@pytest.mark.parametrize(("size", "crop_pct"), [(8, 0.9), (8, 1.0), (17, 0.875)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_validation_bit_for_bit(tmp_path: Path, interpolation: str, size: int, crop_pct: float, channels: int) -> None:
    files = write_folder(tmp_path)
    settings = {"interpolation": "random", "val_interpolation": interpolation, "crop_pct": crop_pct}
    config = DataConfig(root=tmp_path, image_size=size, channels=channels, batch_size=4, workers=0, **settings)  # type: ignore[arg-type]
    expected = torch.cat([images for images, _ in validation_batches(load_data(config), LOCAL)])
    preprocessing = preprocessing_of(config)
    assert torch.equal(torch.stack([preprocessing.read(file) for file in files]), expected)


def test_digits_are_those_of_validation_bit_for_bit() -> None:
    data = load_data(DataConfig(name="digits", image_size=16, channels=1, batch_size=360, workers=0))
    preprocessing = preprocessing_of(data.config)
    (expected, _), *_ = validation_batches(data, LOCAL)
    found = torch.stack([preprocessing(data.val.source[index][0]) for index in range(len(data.val))])
    assert torch.equal(found, expected)


def test_survives_json() -> None:
    assert Preprocessing.from_mapping(json.loads(json.dumps(PLAIN.to_mapping()))) == PLAIN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "crop of 0 out of 9 pixels"),
        ({"short_side": 7}, "crop of 8 out of 7 pixels"),
        ({"interpolation": "cubic"}, "interpolation 'cubic'; allowed: bicubic, bilinear"),
        ({"mean": [0.5, 0.5]}, r"mean \[0.5, 0.5\]"),
        ({"std": [0.2, 0.0, 0.2]}, "std above 0"),
        ({"mean": ["a"]}, "preprocessing: could not convert string to float: 'a'"),
        ({"crop": 1}, "unexpected keyword argument 'crop'"),
        ({"image_size": "8"}, "preprocessing: "),
    ],
)
def test_a_value_that_cannot_be_is_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        Preprocessing.from_mapping(PLAIN.to_mapping() | change)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0"], ids=["empty", "text", "cut"])
def test_a_broken_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"image .*broken\.png: cannot be read \(.+\)$"):
        PLAIN.read(path)


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: cannot be read \(No such file or directory\)$"):
        PLAIN.read(tmp_path / "none.png")
