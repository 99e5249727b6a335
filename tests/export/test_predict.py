"""Images classified by exported files: the classes that the model gives, from every format."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stillbit.errors import DataError, ExportError
from stillbit.export import export_onnx, export_packed, export_program
from stillbit.export.predict import images_in, predict, read_predictor
from stillbit.export.preprocessing import Preprocessing
from tests.export.networks import MODELS, image

PREPROCESSING = Preprocessing(image_size=32, short_side=36, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
WRITERS: dict[str, Callable[..., Any]] = {"a.onnx": export_onnx, "a.safetensors": export_packed, "a.pt2": export_program}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["mobilenet-integer"]()


@pytest.fixture(scope="module")
def files(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model in each format."""
    folder = tmp_path_factory.mktemp("files")
    for name, write in WRITERS.items():
        write(model, folder / name, example=image(), preprocessing=PREPROCESSING.to_mapping(), classes=names(model))
    return folder


def names(model: nn.Module) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(model(image()).shape[1]))


def write_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (50, 40, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("file", WRITERS)
def test_classes_are_those_of_the_model(model: nn.Module, files: Path, tmp_path: Path, file: str) -> None:
    paths = [write_image(tmp_path / f"{seed}.png", seed) for seed in range(5)]
    with torch.no_grad():
        shares = model(torch.stack([PREPROCESSING.read(path) for path in paths])).softmax(1)
    for (path, found), share, expected in zip(predict(files / file, paths, 3), shares, paths, strict=True):
        assert path == expected
        assert [name for name, _ in found.classes] == [f"class {index}" for index in share.topk(3).indices]
        assert [p for _, p in found.classes] == pytest.approx(share.topk(3).values.tolist(), rel=1e-3)  # float32 sums in another order


@pytest.mark.parametrize("file", WRITERS)
def test_without_names_classes_have_numbers_and_no_more_are_given_than_there_are(model: nn.Module, tmp_path: Path, file: str) -> None:
    WRITERS[file](model, tmp_path / file, example=image(), preprocessing=PREPROCESSING.to_mapping())
    found = read_predictor(tmp_path / file)(write_image(tmp_path / "a.png"), top=1000)
    assert sorted(int(name) for name, _ in found.classes) == list(range(len(names(model))))
    assert sum(probability for _, probability in found.classes) == pytest.approx(1.0)


@pytest.mark.parametrize("file", WRITERS)
def test_a_file_without_preprocessing_is_refused(model: nn.Module, tmp_path: Path, file: str) -> None:
    WRITERS[file](model, tmp_path / file, example=image())
    with pytest.raises(ExportError, match=r"a\..*: does not say how its images are prepared; allowed: "):
        read_predictor(tmp_path / file)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 no zip", b"\x08\0\0\0\0\0\0\0{no json"], ids=["empty", "text", "zip", "packed"])
def test_a_foreign_file_is_one_line(tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ExportError, match=r"a: ") as caught:
        read_predictor(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("file", WRITERS)
def test_a_cut_or_damaged_file_is_one_line(files: Path, tmp_path: Path, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = (files / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ExportError, match=r"a\..*: ") as caught:
        read_predictor(tmp_path / file)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_program_is_one_line(files: Path, tmp_path: Path) -> None:
    content = bytearray((files / "a.pt2").read_bytes())
    with zipfile.ZipFile(files / "a.pt2") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 1  # within that entry
    (tmp_path / "a.pt2").write_bytes(content)
    with pytest.raises(ExportError, match=r"a\.pt2: damaged \(at .+\)$"):
        read_predictor(tmp_path / "a.pt2")


@pytest.mark.parametrize("file", WRITERS)
def test_a_file_may_have_any_name(files: Path, tmp_path: Path, file: str) -> None:
    (tmp_path / "network").write_bytes((files / file).read_bytes())
    picture = write_image(tmp_path / "a.png")
    assert read_predictor(tmp_path / "network")(picture) == read_predictor(files / file)(picture)


def test_a_program_of_others_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "a.pt2")
    with pytest.raises(ExportError, match=r"a\.pt2: cut, or not a program that stillbit exported"):
        read_predictor(tmp_path / "a.pt2")


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none: cannot be read \(No such file or directory\)$"):
        read_predictor(tmp_path / "none")
    with pytest.raises(ExportError, match=r"cannot be read \(Is a directory\)$"):
        read_predictor(tmp_path)


def test_a_broken_image_does_not_stop_the_others(files: Path, tmp_path: Path) -> None:
    first, last = write_image(tmp_path / "a.png"), write_image(tmp_path / "c.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    found = dict(predict(files / "a.onnx", [tmp_path, tmp_path / "none.png"]))
    assert list(found) == [first, tmp_path / "b.png", last, tmp_path / "none.png"]
    assert [isinstance(each, DataError) for each in found.values()] == [False, True, False, True]
    assert str(found[first]) == str(found[last])


def test_a_folder_gives_its_images_and_those_below(tmp_path: Path) -> None:
    inside = [write_image(tmp_path / name) for name in ("a.JPG", "b/c.png", "d.webp")]
    (tmp_path / "notes.txt").write_text("no image")
    assert images_in([inside[2], tmp_path]) == [inside[2], *inside]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"folder .*empty: holds no image$"):
        images_in([tmp_path / "empty"])
