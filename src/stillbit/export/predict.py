"""Classes of images by an exported file: any of its formats, with the preparation of images that it carries."""

import json
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from PIL import Image
from torch import Tensor

from stillbit.errors import DataError, ExportError
from stillbit.export.preprocessing import Preprocessing


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    Attributes:
        classes: The likeliest first, each with its probability.
    """

    classes: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        """A line for each class."""
        width = max(len(name) for name, _ in self.classes)
        return "\n".join(f"  {name:{width}}  {probability:7.2%}" for name, probability in self.classes)


@final
class Predictor:
    """A network of a file, from an image to its likeliest classes.

    Args:
        network: Gives logits (1, classes) for a batch (1, channels, height, width).
        preprocessing: From an image to the network's input.
        names: Of the classes, in the order of the logits; None: their numbers.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], preprocessing: Preprocessing, names: tuple[str, ...] | None) -> None:
        self._network = network
        self._preprocessing = preprocessing
        self._names = names

    def __call__(self, image: Path, top: int = 5) -> Prediction:
        """Return the likeliest classes of an image.

        Args:
            image: A file that Pillow opens.
            top: How many classes; all of them where there are fewer.

        Raises:
            DataError: If the image cannot be read.
        """
        with torch.no_grad():
            (logits,) = self._network(self._preprocessing.read(image)[None])
        likeliest = logits.double().softmax(dim=0).topk(min(top, len(logits)))
        pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        return Prediction(tuple((self._names[index] if self._names else str(index), probability) for index, probability in pairs))


def predict(path: Path, images: Iterable[Path], top: int = 5) -> Iterator[tuple[Path, Prediction | DataError]]:
    """Classify images by an exported file.

    Args:
        path: An ONNX file, a packed one, or a program of torch.export.
        images: Image files, and folders of them.
        top: How many classes of each image.

    Returns:
        Each image with what the network says of it, or why it cannot be read.

    Raises:
        ExportError: As `read_predictor`.
        DataError: As `images_in`.
    """
    predictor, paths = read_predictor(path), images_in(images)
    return ((image, _predicted(predictor, image, top)) for image in paths)


def read_predictor(path: Path) -> Predictor:
    """Read a network and how its images are prepared out of an exported file."""
    network, preprocessing, classes = _READERS[_kind(path)](path)
    if preprocessing is None:
        raise ExportError(f"{path}: does not say how its images are prepared; allowed: a file that was exported with preprocessing")
    return Predictor(network, Preprocessing.from_mapping(preprocessing), None if classes is None else tuple(classes))


def images_in(paths: Iterable[Path]) -> list[Path]:
    """Return image files: those that are named, and of a folder all that are in it or below, in order."""
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: list[Path] = []
    for path in paths:
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in known and each.is_file()) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"folder {path}: holds no image")
        found += inside
    return found


def _predicted(predictor: Predictor, image: Path, top: int) -> Prediction | DataError:
    try:
        return predictor(image, top)
    except DataError as error:
        return error


_Read: TypeAlias = tuple[Callable[[Tensor], Tensor], Mapping[str, Any] | None, Iterable[str] | None]


def _kind(path: Path) -> str:
    """Tell the formats apart by how they begin: a zip archive, a length and a JSON text, or else protobuf, which has no mark."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror})") from None
    if start.startswith(b"PK"):
        return "program"
    return "packed" if start[8:] == b"{" else "onnx"


def _onnx(path: Path) -> _Read:
    import onnx

    from stillbit.export.manifest import read_manifest
    from stillbit.export.runtime import open_session

    manifest = read_manifest(path)
    session = open_session(onnx.load(str(path)), where=str(path))
    return lambda x: torch.from_numpy(session(x.numpy())[manifest.output]), manifest.preprocessing, manifest.classes


def _packed(path: Path) -> _Read:
    from stillbit.export.packed_model import load_packed

    network = load_packed(path)
    return network, network.manifest.get("preprocessing"), network.manifest.get("classes")


def _program(path: Path) -> _Read:
    from stillbit.export.program_file import DESCRIPTION

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            (name,) = (each for each in archive.namelist() if each.endswith(f"/{DESCRIPTION}"))
            description = json.loads(archive.read(name))
    except (zipfile.BadZipFile, ValueError) as error:  # torch would print pages about a foreign archive
        raise ExportError(f"{path}: cut, or not a program that stillbit exported ({type(error).__name__})") from None
    if damaged is not None:
        raise ExportError(f"{path}: damaged (at {damaged})")
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # of torch 2.9 itself
        network = torch.export.load(file).module()
    return network, description.get("preprocessing"), description.get("classes")


_READERS: dict[str, Callable[[Path], _Read]] = {"onnx": _onnx, "packed": _packed, "program": _program}
