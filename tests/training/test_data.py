from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stillbit.errors import DataError, RecipeError
from stillbit.training.data import DataConfig, class_names, load_data
from stillbit.training.digits import Digits
from stillbit.training.sampler import SampleKey


def write_images(root: Path, split: str, classes: dict[str, int]) -> None:
    for name, count in classes.items():
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((12, 12, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")


def folder_config(root: Path | None, **changes: object) -> DataConfig:
    return DataConfig(**{"root": root, "image_size": 8, "batch_size": 2, "workers": 0, **changes})  # type: ignore[arg-type]


def test_digits_splits_are_fixed_and_disjoint() -> None:
    train, test = Digits(train=True), Digits(train=False)
    assert (len(train), len(test)) == (1437, 360)
    pictures = [{image.tobytes() for image, _ in (split[i] for i in range(len(split)))} for split in (train, test)]
    assert not pictures[0] & pictures[1]
    assert [test[i][1] for i in range(8)] == [6, 6, 6, 2, 5, 6, 6, 2]  # as in every earlier run


@pytest.mark.parametrize("channels", [1, 3])
def test_digits_have_the_asked_shape(channels: int) -> None:
    data = load_data(DataConfig(name="digits", image_size=20, channels=channels))
    assert data.num_classes == 10
    for split in (data.train, data.val):
        assert split[SampleKey(0, 0)][0].shape == (channels, 20, 20)


def test_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "train", {"cat": 2, "dog": 1})
    write_images(tmp_path, "val", {"cat": 1, "dog": 1})
    data = load_data(folder_config(tmp_path))
    assert (len(data.train), len(data.val), data.num_classes) == (3, 2, 2)
    assert [data.train[SampleKey(0, i)][1] for i in range(3)] == [0, 0, 1]


def test_other_split_names(tmp_path: Path) -> None:
    for split in ("a", "b"):
        write_images(tmp_path, split, {"cat": 1})
    assert len(load_data(folder_config(tmp_path, train_split="a", val_split="b")).val) == 1


def test_timms_factory_opens_torchvision_data_sets(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path, split, {"cat": 2, "dog": 1})
    data = load_data(folder_config(tmp_path, name="torch/image_folder"))
    assert (len(data.train), data.num_classes) == (3, 2)
    assert data.val[SampleKey(0, 2)][1] == 1


def test_validation_has_an_interpolation_of_its_own() -> None:
    settings = [{"interpolation": "random", "val_interpolation": "bicubic"}, {"interpolation": "bicubic"}, {"interpolation": "bilinear"}]
    own, bicubic, bilinear = (load_data(DataConfig(name="digits", image_size=20, **more)).val[SampleKey(0, 0)][0] for more in settings)
    assert torch.equal(own, bicubic)
    assert not torch.equal(own, bilinear)


def test_a_truncated_image_is_named_with_its_path(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path, split, {"cat": 2})
    cut = tmp_path / "train" / "cat" / "2.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])
    name, reason = load_data(folder_config(tmp_path)).train[SampleKey(0, 2)]
    assert name == str(cut)
    assert "truncated" in reason


def test_missing_root() -> None:
    with pytest.raises(DataError, match="data root: not given"):
        load_data(folder_config(None))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no folder {tmp_path}/train"):
        load_data(folder_config(tmp_path))


@pytest.mark.parametrize("classes", [{}, {"cat": 0}], ids=["no-class", "no-image"])
def test_empty_folder(tmp_path: Path, classes: dict[str, int]) -> None:
    (tmp_path / "train").mkdir()
    write_images(tmp_path, "train", classes)
    with pytest.raises(DataError, match=f"data root: {tmp_path}/train: ") as caught:
        load_data(folder_config(tmp_path))
    assert "\n" not in str(caught.value)


def test_splits_with_other_classes(tmp_path: Path) -> None:
    write_images(tmp_path, "train", {"cat": 1, "dog": 1})
    write_images(tmp_path, "val", {"cat": 1})
    with pytest.raises(DataError, match=r"classes of train \(2\) are not those of val \(1\); first that only one has: dog"):
        load_data(folder_config(tmp_path))


def test_another_number_of_classes_than_given() -> None:
    with pytest.raises(DataError, match="num_classes 7 given, the data has 10"):
        load_data(DataConfig(name="digits", num_classes=7))


@pytest.mark.parametrize("name", ["imagenet", "wds/some", "tfds/some"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(DataError, match="allowed: folder, digits, torch/NAME, hfds/NAME"):
        load_data(DataConfig(name=name))


def test_a_data_set_that_cannot_be_opened_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data torch/cifar10: split train under .* cannot be opened") as caught:
        load_data(folder_config(tmp_path, name="torch/cifar10"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 4}, "channels is 4; allowed: 1, 3"),
        ({"batch_size": 0}, "batch_size is 0; allowed: 1 or more"),
        ({"workers": -1}, "workers is -1"),
        ({"crop_pct": 0.0}, "crop_pct is 0.0"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; allowed: bilinear, .*, random"),
        ({"interpolation": "random"}, "val_interpolation is 'random'; allowed: bilinear, bicubic"),
        ({"mean": (0.5,)}, r"mean is \[0.5\]; allowed: 3 numbers"),
    ],
    ids=["channels", "batch_size", "workers", "crop_pct", "interpolation", "random", "mean"],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        DataConfig(**settings)  # type: ignore[arg-type]


def test_class_names_stand_in_the_order_of_labels(tmp_path: Path) -> None:
    write_images(tmp_path, "val", {"dog": 1, "cat": 1})
    for name in ("folder", "torch/image_folder"):
        assert class_names(folder_config(tmp_path, name=name)) == ("cat", "dog")
    assert class_names(DataConfig(name="digits")) == tuple("0123456789")


def test_class_names_of_data_that_is_not_there_are_unknown(tmp_path: Path) -> None:
    assert class_names(folder_config(tmp_path)) is None
    assert class_names(folder_config(None)) is None
    assert class_names(folder_config(tmp_path, name="torch/cifar10", download=True)) is None
    assert class_names(folder_config(None, name="hfds/nobody/nothing")) is None
