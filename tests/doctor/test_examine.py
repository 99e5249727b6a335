"""Real runs of digits, short ones: shipped recipes have no errors, broken runs say what broke them."""

import shutil
from pathlib import Path

import pytest
import torch

from stillbit.doctor import examine_path, examine_run
from stillbit.errors import CheckpointError, DivergedError
from stillbit.recipes.catalog import names
from stillbit.recipes.load import load
from stillbit.run import train

SHORT = ("training.epochs=2", "training.log_every=2", "training.tensorboard=false")
NO_WARMUP = ("optimizer.schedule.warmup_epochs=0", "optimizer.schedule.warmup_start=0")


@pytest.fixture(scope="module")
def digits_float(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float") / "run"
    train(load("digits_float", SHORT), folder)
    return folder


@pytest.fixture(scope="module")
def digits_deit_float(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deit_float") / "run"
    train(load("digits_deit_float", (*SHORT, *NO_WARMUP, "training.epochs=4")), folder)
    return folder


def run_of(name: str, start: Path, folder: Path, *overrides: str) -> Path:
    weights = start / "last.pt"
    given = [f"model.weights={weights}"]
    if "deit" in name:
        given += [f"distillation.teacher.weights={weights}", *NO_WARMUP, "training.evaluate_every=1", "training.cooldown_epochs=0"]
    if "cga" in name:
        given.append("annealing.epochs=1")
    train(load(name, (*SHORT, *given, *overrides)), folder)
    return folder


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", [name for name in names() if name.startswith("digits")])
def test_shipped_recipes_have_no_errors(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    start = request.getfixturevalue("digits_deit_float" if "deit" in name else "digits_float")
    found = examine_run(start if name.endswith("float") else run_of(name, start, tmp_path / name))
    assert [one for one in found if one.severity == "error"] == []
    untrained = {"oscillating-untreated", "loss-not-falling", "window-too-long"}  # of two epochs
    assert [one for one in found if one.severity == "warning" and one.rule not in untrained] == []
    assert {one.rule for one in found.unchecked} <= {"loss-not-falling"}


@pytest.fixture(scope="module")
def frozen(digits_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    short = ("freezing.begin=0.5", "freezing.ema_momentum=0.025", "freezing.final_threshold=0.04")
    return run_of("digits_w3a3_freeze", digits_float, tmp_path_factory.mktemp("frozen") / "run", *short)


@pytest.mark.integration
def test_a_run_is_examined_whole_and_a_checkpoint_by_itself(frozen: Path) -> None:
    whole, alone = examine_path(frozen), examine_path(frozen / "last.pt")
    assert [one.rule for one in whole] == ["freezing-two-oscillations"]
    assert list(alone) == []
    assert set(alone.checked) < set(whole.checked)
    assert {"dead-activation", "stale-batchnorm", "scale-not-in-optimizer"} <= set(alone.checked)


def test_without_its_data_a_run_says_what_was_not_checked(frozen: Path) -> None:
    found = examine_run(frozen, ["data.name=folder", "data.root=nowhere"])
    why = {one.rule: one.why for one in found.unchecked}
    assert set(why) == {"never-called", "dead-activation", "saturated-activation", "stale-batchnorm"}
    assert why["stale-batchnorm"].startswith("the data is not at hand (data root: no folder nowhere/train")


def test_a_record_without_a_checkpoint_is_examined_too(frozen: Path, tmp_path: Path) -> None:
    shutil.copy(frozen / "record.jsonl", tmp_path)
    found = examine_run(tmp_path)
    why = {one.rule: one.why for one in found.unchecked}
    assert why["at-chance"] == "the number of classes is not known without a checkpoint"
    assert why["not-finite"] == f"there is no network to look at (checkpoint {tmp_path / 'last.pt'}: no such file)"
    assert "checkpoint-unreadable" not in {one.rule for one in found}
    assert [one.rule for one in found] == ["freezing-two-oscillations"]


def test_a_damaged_checkpoint_is_a_finding(frozen: Path, tmp_path: Path) -> None:
    shutil.copy(frozen / "record.jsonl", tmp_path)
    (tmp_path / "last.pt").write_bytes((frozen / "last.pt").read_bytes()[:5000])
    found = examine_run(tmp_path)
    assert (found[0].rule, found[0].where) == ("checkpoint-unreadable", "last.pt")
    assert "cut or damaged" in found[0].what
    assert "diverged" in found.checked


def test_a_run_that_diverged_names_step_and_layer(digits_float: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        run_of("digits_w3a3_lsq", digits_float, tmp_path / "hot", "optimizer.lr=1e30")
    first = examine_run(tmp_path / "hot")[0]
    assert (first.rule, first.severity) == ("diverged", "error")
    assert first.where.startswith("step ")
    assert "is not finite" in first.what


def test_an_ill_checkpoint_is_told_by_layer(frozen: Path, tmp_path: Path) -> None:
    content = torch.load(frozen / "last.pt", weights_only=True)
    content["model"]["blocks.1.0.conv_pw.weight_quantizer.scale"].fill_(-1.0)
    content["model"]["blocks.1.0.bn1.running_mean"].fill_(50.0)
    torch.save(content, tmp_path / "last.pt")
    found = {one.rule: one.where for one in reversed(examine_path(tmp_path / "last.pt"))}
    assert found["scale-collapsed"] == "blocks.1.0.conv_pw.weight_quantizer"
    assert found["stale-batchnorm"] == "blocks.1.0.bn1"


def test_neither_run_nor_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run folder and no checkpoint; allowed: one of them, or an exported file"):
        examine_path(tmp_path)
    with pytest.raises(CheckpointError, match=r"none: no run folder and no checkpoint"):
        examine_path(tmp_path / "none")
