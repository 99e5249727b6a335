"""The container: what is stored how, and what is refused."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stillbit.errors import ExportError
from stillbit.export import packed_container
from stillbit.export.packed_container import Content, read_content, write_content

CODES = torch.arange(-4, 4, dtype=torch.int8).repeat(3)[:19].reshape(19, 1)
TENSORS = {
    "layer.codes": CODES,
    "again.codes": CODES.clone(),
    "as_bytes": CODES.clone(),
    "scale": torch.tensor([0.1, 1e-30]),
    "mask": torch.full((40, 40), -100.0).triu(),
    "index": torch.arange(3000, dtype=torch.int64) // 100,
    "count": torch.tensor(7),
    "flag": torch.tensor(True),
    "same_flag": torch.tensor(True),
    "other_shape": torch.tensor([True]),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
    "columns": torch.randn(4, 5).T,
}
WIDTHS = {"layer.codes": 3, "again.codes": 3}
CONTENT = Content({"recipe": {"é": [1, 0.1]}}, {"program": None}, TENSORS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_content(tmp_path / "network.safetensors", CONTENT, WIDTHS)
    return tmp_path / "network.safetensors"


def stored_in(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def manifest_in(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        manifest: dict[str, Any] = json.loads(file.metadata()["stillbit"])
        return manifest


def test_everything_comes_back(path: Path) -> None:
    content = read_content(path)
    assert content.manifest["recipe"] == CONTENT.manifest["recipe"]
    assert content.document == CONTENT.document
    assert content.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert content.tensors[name].dtype == tensor.dtype
        assert torch.equal(content.tensors[name], tensor), name


def test_codes_are_stored_at_their_width_equal_tensors_once_and_what_zlib_halves_smaller(path: Path) -> None:
    stored = stored_in(path)
    assert stored["layer.codes"].shape == (8,)  # 19 codes of 3 bits
    assert "again.codes" not in stored
    assert stored["as_bytes"].shape == CODES.shape  # equal numbers, and no codes
    assert "same_flag" not in stored
    assert "other_shape" in stored
    assert set(manifest_in(path)["compressed"]) == {"mask", "index"}
    assert stored["mask"].nbytes < TENSORS["mask"].nbytes / 2
    assert torch.equal(stored["scale"], TENSORS["scale"])


def test_equal_contents_make_equal_files(path: Path) -> None:
    other = path.with_name("other.safetensors")
    write_content(other, CONTENT, WIDTHS)
    assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kept", [0, 4, 9, 300, -200, -1])
def test_a_cut_file_is_one_line(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ExportError, match=r"network.safetensors: cut, or not a safetensors file") as caught:
        read_content(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_packed_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none.safetensors: no such file"):
        read_content(tmp_path / "none.safetensors")
    with pytest.raises(ExportError, match="cut, or not a safetensors file"):
        read_content(tmp_path)
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, tmp_path / "foreign", metadata)
        with pytest.raises(ExportError, match="not a packed file of stillbit"):
            read_content(tmp_path / "foreign")
    for text in ("{", "3", "{}"):
        save_file({"weight": torch.zeros(2)}, tmp_path / "foreign", {"stillbit": text})
        with pytest.raises(ExportError, match="its manifest cannot be read"):
            read_content(tmp_path / "foreign")


def test_a_newer_format_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_container, "FORMAT", 2)
    write_content(path, CONTENT, WIDTHS)
    monkeypatch.undo()
    with pytest.raises(ExportError, match="packed format 2, of another stillbit than this one; allowed: 1"):
        read_content(path)


def test_a_changed_byte_is_seen_in_every_tensor(path: Path) -> None:
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ExportError, match="damaged or changed"):
            read_content(path)


def test_a_changed_manifest_is_seen(path: Path) -> None:
    stored, manifest = stored_in(path), manifest_in(path)
    manifest["recipe"] = "another"
    save_file(stored, path, {"stillbit": json.dumps(manifest)})
    with pytest.raises(ExportError, match="damaged or changed"):
        read_content(path)


@pytest.mark.parametrize(
    ("table", "form"),
    [
        ("packed", {"bits": 4, "signed": True, "shape": [19, 1]}),
        ("packed", {"bits": 64, "signed": True, "shape": [1]}),
        ("packed", {"signed": True, "shape": [19]}),
        ("compressed", {"dtype": "load", "shape": [40, 40]}),
        ("compressed", {"dtype": "float32", "shape": [39, 40]}),  # more bytes than that: memory is not filled
        ("compressed", {"dtype": "float32", "shape": [41, 40]}),
    ],
)
def test_tensors_of_another_form_are_one_line(path: Path, monkeypatch: pytest.MonkeyPatch, table: str, form: dict[str, Any]) -> None:
    stored, manifest = stored_in(path), manifest_in(path)
    manifest[table]["layer.codes" if table == "packed" else "mask"] = form
    del manifest["sha256"]
    manifest["sha256"] = packed_container._hash(manifest, stored)  # as one who means harm would
    save_file(stored, path, {"stillbit": json.dumps(manifest)})
    with pytest.raises(ExportError, match="its tensors are not what its manifest says") as caught:
        read_content(path)
    assert "\n" not in str(caught.value)


def test_a_document_does_not_fill_the_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_container, "_LARGEST_DOCUMENT", 10)
    with pytest.raises(ExportError, match="more than 10 bytes"):
        read_content(path)


def test_what_json_does_not_know_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    for value in (torch.zeros(1), float("nan"), Path("a")):
        with pytest.raises(ExportError, match="the manifest cannot be written as JSON"):
            write_content(tmp_path / "network", Content({"recipe": value}, {}, {}), {})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"network.safetensors: cannot be written \(No space left on device, 0.0 MB\)"):
        write_content(path, Content({}, {}, {}), {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_none_is_one_line(path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot be written \(Not a directory"):
        write_content(path / "inside", CONTENT, WIDTHS)
    with pytest.raises(ExportError, match=r"cannot be written \(No such file"):
        write_content(path.parent / "none" / "inside", CONTENT, WIDTHS)
