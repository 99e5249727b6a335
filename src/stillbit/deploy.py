"""From a run to a file, and from a file back to the run that it came from."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from stillbit.assembly import Trained, build_trained, example, trained_classes
from stillbit.errors import ExportError
from stillbit.export.preprocessing import Preprocessing
from stillbit.recipes.mapping import to_mapping
from stillbit.training.batches import validation_batches
from stillbit.training.data import DataConfig, class_names, load_data
from stillbit.training.session import LOCAL

if TYPE_CHECKING:
    from stillbit.export.findings import Verification

SUFFIXES = {"onnx": ".onnx", "packed": ".safetensors", "program": ".pt2"}


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: Where.
        num_bytes: Its size.
        float_bytes: Size of the network's parameters and statistics in float32.
    """

    path: Path
    num_bytes: int
    float_bytes: int

    def __str__(self) -> str:
        """One line: path, bytes, and how many times smaller, or larger, than float32."""
        smaller, larger = self.float_bytes / self.num_bytes, self.num_bytes / self.float_bytes
        share = f"1/{smaller:.1f} of" if smaller >= 1 else f"{larger:.1f} x"
        return f"{self.path}  {self.num_bytes:,} bytes  {share} float32 ({self.float_bytes:,} bytes)"


def export(
    path: Path,
    format: str,
    target: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    container: str = "auto",
    runtime: str | None = None,
    exact: bool = False,
) -> Exported:
    """Write what a run has trained as a file that other programs read. Needs no data."""
    if format not in SUFFIXES:
        raise ExportError(f"format is {format!r}; allowed: {', '.join(SUFFIXES)}")
    if format != "onnx" and (container != "auto" or runtime is not None or exact):
        raise ExportError(f"container, runtime and exact are of ONNX files; allowed with format {format}: none of them")
    from stillbit.prepare.size import float_bytes

    trained = Trained.read(path, overrides)
    target = target or _beside(path, SUFFIXES[format])
    _check_target(target)
    if trained.recipe.quantization is None:
        raise ExportError(f"{path}: trained in full precision; allowed: a run of a recipe with quantization")
    model = build_trained(trained)
    own: dict[str, dict[str, Any]] = {
        "onnx": {"container": container, "runtime": runtime, "exact": exact},
        "packed": {"accuracy": _accuracy(trained)},
    }
    options = own.get(format, {})
    _write(format, model, target, trained, **options)
    return Exported(target, target.stat().st_size, float_bytes(model))


def verify(
    file: Path, path: Path, overrides: Sequence[str] = (), *, batches: int | None = None, runtime: str = "onnxruntime"
) -> "Verification":
    """Compare a file with the run that it came from, on the run's validation images.

    Args:
        file: An exported file.
        path: A run folder, of which the last checkpoint counts, or a checkpoint.
        overrides: Assignments `key.path=value` to the recipe that the checkpoint holds: another data.root, for example.
        batches: How many batches of the validation split; None means all.
        runtime: "onnxruntime" or "openvino".

    Returns:
        What agrees and what does not.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ExportError: If the file cannot be read, or the runtime is not installed.
        StillbitError: Whatever building or loading meets.
    """
    from stillbit.export.verify import verify as verify_file

    if batches is not None and batches < 1:
        raise ExportError(f"batches is {batches}; allowed: 1 or more")
    trained = Trained.read(path, overrides)
    images = _images(trained.recipe.data, batches)
    return verify_file(file, build_trained(trained), images, runtime=runtime)


def preprocessing_of(config: DataConfig) -> Preprocessing:
    """Return what the validation images of a data section go through."""
    mean, std = config.normalization
    interpolation = config.val_interpolation or config.interpolation
    return Preprocessing(config.image_size, math.floor(config.image_size / config.crop_pct), interpolation, mean, std)


def _write(format: str, model: nn.Module, target: Path, trained: Trained, **options: Any) -> None:
    from stillbit.export import export_onnx, export_packed, export_program

    writers: dict[str, Callable[..., Any]] = {"onnx": export_onnx, "packed": export_packed, "program": export_program}
    config = trained.recipe.data
    writers[format](
        model,
        target,
        example=example(trained.recipe),
        recipe=to_mapping(trained.recipe),
        preprocessing=preprocessing_of(config).to_mapping(),
        classes=_names(trained),
        **options,
    )


def _accuracy(trained: Trained) -> dict[str, float] | None:
    """Return what the run has measured of these very weights: nothing where steps were taken since."""
    position = trained.checkpoint.content["position"]
    last = position["history"][-1] if position["history"] and not position["images"] else {}
    return {"top-1, validation images of the run": last["val_top1"]} if "val_top1" in last else None


def _names(trained: Trained) -> tuple[str, ...] | None:
    """Return the names of the classes where the data is at hand and has as many as the network."""
    found = class_names(trained.recipe.data)
    return found if found is not None and len(found) == trained_classes(trained) else None


def _images(config: DataConfig, batches: int | None) -> Iterator[Tensor]:
    found = validation_batches(load_data(config), LOCAL)
    return (images for images, _ in islice(found, batches))


def _beside(path: Path, suffix: str) -> Path:
    if path.is_dir():
        return path / f"{path.resolve().name}{suffix}"
    return path.with_suffix(suffix)


def _check_target(target: Path) -> None:
    """Refuse what cannot become a file, before anything is built."""
    if target.is_dir():
        raise ExportError(f"output {target}: is a folder; allowed: a file")
    if not target.parent.is_dir():
        raise ExportError(f"output {target}: no folder {target.parent}; allowed: a file in a folder that exists")
