"""Every rule on files: an ill file triggers it, a healthy one does not; and the rules on real files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillbit.doctor import examine_file, examine_path
from stillbit.doctor.rules import RULES, Rule
from stillbit.doctor.subjects import FileSubject
from stillbit.errors import ExportError
from stillbit.export import export_onnx, export_packed
from stillbit.export.inspect import Inspection, LayerRow
from stillbit.export.saturation import Saturation
from tests.export.networks import cnn, image
from tests.prepare import networks

OF_FILES = [rule for rule in RULES if rule.subject is FileSubject]


def row(name: str = "conv", *, kernel: str = "QLinearConv", bits: int | None = 4, num_bytes: int = 100_000, macs: int = 1000) -> LayerRow:
    return LayerRow(name, "conv2d", bits, 200_000, num_bytes, macs, kernel)


def sums(name: str = "conv", *, accumulator: int = 1000, pair: int = 1000) -> Saturation:
    return Saturation(name, 8, 15, accumulator, pair)


def file(
    *rows: LayerRow, saturation: tuple[Saturation, ...] = (sums(),), notes: tuple[str, ...] = (), runtime: Any = "a runtime"
) -> FileSubject:
    return FileSubject(Path("net.onnx"), Inspection("net.onnx", 200_000, "W4A4", runtime, rows or (row(),), 1000, saturation, notes))


FLOAT = "Conv, 50.0% of the multiplications: its "
ILL: dict[str, tuple[Callable[[], FileSubject], str]] = {
    "accumulator-overflow": (
        lambda: file(saturation=(sums(accumulator=2**31),)),
        "a sum can reach 2,147,483,648, 32 bits hold 2,147,483,647",
    ),
    "mostly-float": (lambda: file(row(), row(kernel="Conv", macs=9000)), "10% of the multiplications run on integer kernels of a runtime"),
    "wider-than-bits": (lambda: file(row(num_bytes=800_000)), "weights take 800,000 bytes, their codes 100,000: 8.0 times"),
    "float-kernel": (lambda: file(row(), row("head", kernel="Conv")), f"{FLOAT}input is float"),
    "pair-saturation": (lambda: file(saturation=(sums(pair=2**15),)), "sums of two products can reach 32,768, 16 bits hold 32,767"),
    "inexact-layer": (lambda: file(notes=("stem.weight_quantizer: a few are one step off",)), "a few are one step off"),
}


def named(rule: Rule) -> str:
    return rule.name


@pytest.mark.parametrize("rule", OF_FILES, ids=named)
def test_an_ill_file_triggers_the_rule(rule: Rule) -> None:
    make, told = ILL[rule.name]
    (found,) = rule.find(make())
    assert told in found.what
    assert found.where
    assert found.cure


@pytest.mark.parametrize("rule", OF_FILES, ids=named)
def test_a_healthy_file_does_not(rule: Rule) -> None:
    assert list(rule.find(file())) == []


def test_there_is_no_case_without_a_rule() -> None:
    assert set(ILL) == {rule.name for rule in OF_FILES}


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        pytest.param(row(kernel="Conv"), "its output stays float", id="output"),
        pytest.param(row("stem", kernel="Conv"), "its input is float", id="input"),
        pytest.param(row(kernel="Conv", bits=32), "its weights are float", id="weight"),
        pytest.param(row(kernel="MatMul", bits=None), "a product of activations", id="product"),
    ],
)
def test_a_float_kernel_has_its_reason(layer: LayerRow, why: str) -> None:
    (find,) = (rule.find for rule in OF_FILES if rule.name == "float-kernel")
    (found,) = find(file(layer))
    assert why in found.what


def test_a_file_for_pytorch_has_no_kernels_to_blame() -> None:
    subject = file(row(kernel=""), runtime=None)
    assert all(list(rule.find(subject)) == [] for rule in OF_FILES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    model = cnn(networks.small_resnet)()
    export_onnx(model, folder / "net.onnx", example=image())
    export_packed(model, folder / "net.safetensors", example=image())
    return folder


def test_an_exported_network_says_which_layers_are_float_and_why(exported: Path) -> None:
    found = examine_file(exported / "net.onnx")
    floats = {one.where: one.what for one in found if one.rule == "float-kernel"}
    assert floats
    assert "its input is float" in floats["conv1"]
    assert any("its output stays float" in what for what in floats.values())


def test_a_packed_file_is_examined_too(exported: Path) -> None:
    found = examine_file(exported / "net.safetensors")
    assert found.ok
    assert len(found.checked) == len(OF_FILES)


def test_other_files_and_overrides_are_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"")
    with pytest.raises(ExportError, match=r"net\.pt2: allowed are files that end in \.onnx or \.safetensors, run folders and checkpoints"):
        examine_path(tmp_path / "net.pt2")
    with pytest.raises(ExportError, match=r"a file has no recipe to change"):
        examine_path(exported / "net.onnx", ["data.root=x"])
