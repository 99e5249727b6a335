"""From a run to a file and back: digits, a few steps, every format."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stillbit import deploy, run
from stillbit.assembly import Trained, build_trained
from stillbit.cli import main
from stillbit.errors import CheckpointError, ExportError, StillbitError
from stillbit.export import load_packed
from stillbit.export.predict import predict
from stillbit.recipes.load import load
from stillbit.training.checkpoint import Checkpoint, write_checkpoint
from stillbit.training.data import load_data

pytestmark = pytest.mark.end_to_end

SHORT = (
    "model.weights=random",
    "training.epochs=2",
    "training.tensorboard=false",
    "training.reestimate_batches=2",
)
QUICK_RANGES = ("quantization.weight_range.estimator=current_minmax", "quantization.activation_range.estimator=current_minmax")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the digits at 3 bits."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run.train(load("digits_w3a3_freeze", [*SHORT, *QUICK_RANGES, "quantization.policy=integer"]), folder)
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("format", deploy.SUFFIXES)
def test_every_format_predicts_what_the_run_does(trained: Path, tmp_path: Path, format: str) -> None:
    exported = deploy.export(trained, format, tmp_path / f"a{deploy.SUFFIXES[format]}")
    assert exported.num_bytes == exported.path.stat().st_size
    read = Trained.read(trained)
    model, source = build_trained(read), load_data(read.recipe.data).val.source
    pictures = [tmp_path / "digits" / f"{index:03}.png" for index in range(len(source))]
    pictures[0].parent.mkdir()
    for index, picture in enumerate(pictures):
        source[index][0].save(picture)
    prepare = deploy.preprocessing_of(read.recipe.data)
    with torch.no_grad():
        expected = model(torch.stack([prepare(source[index][0]) for index in range(len(source))])).argmax(1)
    found = predict(exported.path, [tmp_path / "digits"], top=1)
    assert [(path, what.classes[0][0]) for path, what in found] == [
        (picture, str(int(digit))) for picture, digit in zip(pictures, expected, strict=True)
    ]


def test_an_exported_file_is_verified_on_the_runs_images(trained: Path, tmp_path: Path) -> None:
    deploy.export(trained, "onnx", tmp_path / "a.onnx")
    found = deploy.verify(tmp_path / "a.onnx", trained, ["data.val_batch_size=30"], batches=2)
    assert found.ok, str(found)
    assert found.logits.images == 60
    assert deploy.verify(tmp_path / "a.onnx", trained / "last.pt").logits.images == 360


def test_a_file_of_another_run_is_not_verified(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploy.export(trained, "onnx", tmp_path / "a.onnx")
    content = dict(Checkpoint.read(trained / "last.pt").content)
    weight = content["model"]["classifier.weight"]
    write_checkpoint(tmp_path / "other.pt", content | {"model": content["model"] | {"classifier.weight": -weight}})
    with pytest.raises(SystemExit) as left:
        main(["verify", str(tmp_path / "a.onnx"), str(tmp_path / "other.pt"), "--batches", "1"])
    captured = capsys.readouterr()
    assert left.value.code == 4
    assert "classifier" in captured.out
    assert captured.err.endswith("does not compute what " + f"{tmp_path / 'other.pt'} has trained, within its bounds\n")


def test_the_file_lies_beside_its_run_under_its_name(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "last.pt").write_bytes((trained / "last.pt").read_bytes())
    assert deploy.export(folder, "program").path == folder / "mine.pt2"
    assert deploy.export(folder / "last.pt", "packed").path == folder / "last.safetensors"


def test_the_card_of_a_packed_file_says_what_the_run_measured(trained: Path, tmp_path: Path) -> None:
    deploy.export(trained, "packed", tmp_path / "a.safetensors")
    content = dict(Checkpoint.read(trained / "last.pt").content)
    measured = content["position"]["history"][-1]["val_top1"]
    assert load_packed(tmp_path / "a.safetensors").manifest["accuracy"] == {"top-1, validation images of the run": measured}
    assert f"| top-1, validation images of the run | {measured:.2%} |" in (tmp_path / "a.md").read_text()


@pytest.mark.parametrize(
    "changed", [{"images": 18.0}, {"history": []}, {"history": [{"epoch": 1}]}], ids=["trained_on", "none", "no_figure"]
)
def test_what_was_not_measured_of_these_weights_is_in_no_card(trained: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    content = dict(Checkpoint.read(trained / "last.pt").content)
    write_checkpoint(tmp_path / "b.pt", content | {"position": content["position"] | changed})
    deploy.export(tmp_path / "b.pt", "packed")
    assert load_packed(tmp_path / "b.safetensors").manifest["accuracy"] is None


def test_the_data_is_not_needed_to_export(trained: Path, tmp_path: Path) -> None:
    deploy.export(trained, "program", tmp_path / "a.pt2", ["data.name=folder", "data.root=none"])
    assert (tmp_path / "a.pt2").exists()


def test_the_ratio_is_to_the_float_networks_own_tensors(trained: Path, tmp_path: Path) -> None:
    from stillbit.recipes.model import build_model

    recipe = load("digits_w3a3_freeze", SHORT)
    network = build_model(recipe.model, num_classes=10, channels=1)
    expected = sum(4 * tensor.numel() for tensor in network.state_dict().values() if tensor.is_floating_point())
    assert deploy.export(trained, "program", tmp_path / "a.pt2").float_bytes == expected


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("tflite", {}, "format is 'tflite'; allowed: onnx, packed, program"),
        ("packed", {"container": "int8"}, "container, runtime and exact are of ONNX files; allowed with format packed: none of them"),
        ("program", {"runtime": "1.23"}, "container, runtime and exact are of ONNX files; allowed with format program: none of them"),
        ("onnx", {"container": "int3"}, "int3"),
        ("onnx", {"runtime": "new"}, "new"),
        ("onnx", {"overrides": ["quantization.weight_bits=4"]}, "trained with quantization.weight_bits 3; allowed: 4"),
    ],
    ids=["format", "container", "runtime", "unknown container", "unknown runtime", "another network"],
)
def test_what_cannot_be_exported_is_one_line_and_no_file(trained: Path, tmp_path: Path, format: str, options: dict, message: str) -> None:
    with pytest.raises(StillbitError, match=message) as caught:
        deploy.export(trained, format, tmp_path / "a", **options)
    assert "\n" not in str(caught.value)
    assert files_of(tmp_path) == set()


@pytest.mark.parametrize("format", deploy.SUFFIXES)
def test_a_float_run_is_not_exported(tmp_path: Path, format: str) -> None:
    run.train(load("digits_float", [*SHORT]), tmp_path / "float")
    before = files_of(tmp_path / "float")
    with pytest.raises(ExportError, match=r"float: trained in full precision; allowed: a run of a recipe with quantization$"):
        deploy.export(tmp_path / "float", format)
    assert files_of(tmp_path / "float") == before


@pytest.mark.parametrize("format", deploy.SUFFIXES)
def test_a_file_that_cannot_be_written_is_not_there(trained: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for target, message in (
        (tmp_path, "is a folder; allowed: a file"),
        (tmp_path / "none" / "a", "no folder .*none; allowed: a file in a folder that exists"),
    ):
        with pytest.raises(ExportError, match=message):
            deploy.export(trained, format, target)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", fail)  # a folder's mode does not stop root
    with pytest.raises(ExportError, match=r"a: cannot be written \(Permission denied"):
        deploy.export(trained, format, tmp_path / "a")
    assert files_of(tmp_path) == set()


def test_a_run_without_a_checkpoint_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint .*last\.pt: no such file$"):
        deploy.export(tmp_path, "onnx")


@pytest.mark.parametrize("batches", [0, -1])
def test_no_batch_verifies_nothing(trained: Path, batches: int) -> None:
    with pytest.raises(ExportError, match=f"batches is {batches}; allowed: 1 or more"):
        deploy.verify(trained / "a.onnx", trained, batches=batches)
