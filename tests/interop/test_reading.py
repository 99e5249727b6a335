import argparse
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stillbit.errors import CheckpointError
from stillbit.interop import read_published

STATE = {"head.weight": torch.ones(2, 3), "head.bias": torch.zeros(2)}


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("content", "taken", "passed_over"),
    [
        (STATE, "", ()),
        ({"state_dict": STATE, "epoch": 3}, "state_dict", ()),
        ({"model": STATE, "optimizer": {}, "scheduler": None}, "model", ()),
        ({"state_dict": STATE, "state_dict_ema": {"x": torch.ones(1)}}, "state_dict", ("state_dict_ema",)),
        ({"state_dict_ema": STATE}, "state_dict_ema", ()),
        ({f"module.{name}": tensor for name, tensor in STATE.items()}, "", ()),
    ],
    ids=["bare", "state_dict", "model", "plain before averaged", "averaged alone", "data parallel"],
)
def test_a_state_dict_is_found(content: object, taken: str, passed_over: tuple[str, ...], tmp_path: Path) -> None:
    checkpoint = read_published(saved(tmp_path / "a.pth", content))
    assert checkpoint.state.keys() == STATE.keys()
    assert all(torch.equal(checkpoint.state[name], tensor) for name, tensor in STATE.items())
    assert (checkpoint.taken, checkpoint.passed_over) == (taken, passed_over)


def test_options_of_the_training_script_are_read(tmp_path: Path) -> None:
    options = argparse.Namespace(wq_bitw=2, aq_bitw=3, model="deit_tiny")
    path = saved(tmp_path / "a.pth.tar", {"state_dict": STATE, "args": options, "arch": "deit_tiny", "version": 2, "metric": 64.3})
    assert read_published(path).arguments == {"wq_bitw": 2, "aq_bitw": 3, "model": "deit_tiny"}


def test_no_class_stays_allowed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": STATE, "args": argparse.Namespace(wq_bitw=2)})
    read_published(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


class Runs:
    """What it does when it is unpickled, a test sees."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([STATE], "holds a list; allowed: a state dict"),
        ({}, "is an empty state dict"),
        ({"epoch": 3, "note": "none"}, "is no state dict: 'epoch' is a int"),
        ({"state_dict": STATE, "model": STATE}, r"several state dicts \(state_dict, model\)"),
        ({"module.a": torch.ones(1), "b": torch.ones(1)}, "1 of 2 names begin with 'module.'"),
        ({"format": 1, "model": STATE, "surroundings": {}}, "written by stillbit itself"),
        ({"state_dict": STATE, "args": Runs()}, "holds code, or objects"),
    ],
    ids=["list", "empty", "no state dict", "two", "half parallel", "ours", "code"],
)
def test_what_is_no_published_checkpoint_is_refused(content: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "a.pth", content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_published(path)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
        read_published(tmp_path / "absent.pth")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99], ids=str)
def test_a_cut_file_is_refused(kept: float, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": STATE})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(CheckpointError, match="cut or damaged") as refusal:
        read_published(path)
    assert "\n" not in str(refusal.value)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": STATE})
    content = bytearray(path.read_bytes())
    content[content.index(b"\x00\x00\x80\x3f")] ^= 1  # within the first weight, 1.0
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cut or damaged"):
        read_published(path)


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_text("a recipe: no\n" * 100)
    with pytest.raises(CheckpointError, match="cut or damaged, or not a file that torch saved"):
        read_published(path)


def test_an_old_pickled_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=False)
    state: dict[str, Tensor] = dict(read_published(path).state)
    assert torch.equal(state["head.weight"], STATE["head.weight"])
