import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from stillbit.errors import CheckpointError
from stillbit.training.checkpoint import Checkpoint, write_checkpoint


def content(value: float = 1.0) -> dict[str, object]:
    return {"model": {"weight": torch.full((2, 3), value), "bias": torch.zeros(2)}, "note": {"list": [1, "a", None]}}


def test_round_trip(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.pt", content())
    found = Checkpoint.read(tmp_path / "last.pt")
    assert torch.equal(found.content["model"]["weight"], torch.ones(2, 3))
    assert found.content["note"] == {"list": [1, "a", None]}


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        write_checkpoint(tmp_path / "last.pt", content(value))
    assert list(tmp_path.iterdir()) == [tmp_path / "last.pt"]
    assert Checkpoint.read(tmp_path / "last.pt").content["model"]["weight"][0, 0] == 2.0


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    write_checkpoint(tmp_path / "last.pt", content(1.0))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(CheckpointError, match=r"last.pt: cannot be written \(No space left on device, 0.0 MB\)"):
        write_checkpoint(tmp_path / "last.pt", content(2.0))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [tmp_path / "last.pt"]
    assert Checkpoint.read(tmp_path / "last.pt").content["model"]["weight"][0, 0] == 1.0


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file or directory"):
        write_checkpoint(tmp_path / "none" / "last.pt", content())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_cut_short(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    write_checkpoint(path, content())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="cut or damaged") as caught:
        Checkpoint.read(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_checkpoint(path, content())
    raw = bytearray(path.read_bytes())
    position = raw.index(torch.ones(6).numpy().tobytes())
    raw[position] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"cut or damaged \(at .*data/0\)"):
        Checkpoint.read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        Checkpoint.read(tmp_path / "last.pt")


@pytest.mark.parametrize("other", [{"weight": torch.ones(1)}, [1, 2]], ids=["state-dict", "list"])
def test_a_file_of_another_kind(tmp_path: Path, other: object) -> None:
    torch.save(other, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="not written by stillbit's trainer"):
        Checkpoint.read(tmp_path / "last.pt")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"format": 1, "trap": Trap(tmp_path / "sprung")}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="not readable"):
        Checkpoint.read(tmp_path / "last.pt")
    assert not (tmp_path / "sprung").exists()


def test_fill(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.pt", content(3.0))
    model = nn.Linear(3, 2)
    Checkpoint.read(tmp_path / "last.pt").fill(model)
    assert model.weight.unique().tolist() == [3.0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 2, bias=False), "this one has no bias"),
        (nn.Linear(4, 2), r"weight is \(2, 3\), allowed: \(2, 4\)"),
        (nn.Sequential(nn.Linear(3, 2)), r"it has no 0\.weight"),
    ],
    ids=["name-too-many", "shape", "name-missing"],
)
def test_a_checkpoint_of_another_model_loads_nothing(tmp_path: Path, model: nn.Module, message: str) -> None:
    write_checkpoint(tmp_path / "last.pt", content(3.0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"of another model: .*{message}"):
        Checkpoint.read(tmp_path / "last.pt").fill(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
