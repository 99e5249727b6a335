"""The assembly root: whole runs on the bundled digits, a few steps each."""

from types import SimpleNamespace

import pytest
import torch

from stillbit import run
from stillbit.errors import CheckpointError, DataError, RecipeError
from stillbit.oscillation import Dampening, Freezing, Tracking
from stillbit.recipes.load import load
from stillbit.training.checkpoint import Checkpoint, write_checkpoint
from stillbit.training.session import Session
from tests.assembling import assembled
from tests.equality import assert_equal

# 5 steps an epoch; min-max ranges, because the search for the least squared error takes longer than the rest together
SHORT = (
    "data.batch_size=256",
    "training.epochs=2",
    "training.tensorboard=false",
    "training.reestimate_batches=2",
)
QUICK_RANGES = ("quantization.weight_range.estimator=current_minmax", "quantization.activation_range.estimator=current_minmax")


def quantized(method="freeze", *overrides):
    # frozen early, so that pins are part of every comparison
    early = ("freezing.begin=0", "freezing.threshold=0.001", "freezing.final_threshold=null") if method == "freeze" else ()
    return load(f"digits_w3a3_{method}", ["model.weights=random", *SHORT, *QUICK_RANGES, *early, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with freezing, never interrupted."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "finished"
    figures = run.train(quantized(), folder)
    return folder, figures


def test_a_run_folder_holds_the_resolved_recipe_the_record_and_checkpoints(finished):
    folder, figures = finished
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "record.jsonl", "last.pt", "best.pt"}
    assert load(str(folder / "recipe.yaml")) == quantized()
    assert figures["epoch"] == 2
    assert figures["frozen"] > 0.0


def test_validate_gives_the_figures_of_the_run(finished):
    folder, figures = finished
    found = run.validate(folder)
    assert (found.top1, found.loss, found.count) == (figures["val_top1"], figures["val_loss"], 360)
    assert run.validate(folder / "last.pt") == found


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_validate_finds_the_same_at_every_batch_size(finished, batch_size):
    folder, figures = finished
    found = run.validate(folder, [f"data.val_batch_size={batch_size}"])
    assert found.top1 == figures["val_top1"]
    # float32 kernels of another batch size sum in another order
    assert found.loss == pytest.approx(figures["val_loss"], rel=1e-5)


def test_validate_changes_no_file(finished):
    folder, _ = finished
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    run.validate(folder)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


@pytest.mark.parametrize("stop_after", [3, 7], ids=["first_epoch", "second_epoch"])
def test_a_resumed_run_is_bitwise_the_run_that_was_never_stopped(finished, tmp_path, monkeypatch, stop_after):
    folder, _ = finished
    recipe = quantized("freeze", "training.checkpoint_every=1")
    with monkeypatch.context() as patch:
        patch.setattr(Freezing, "after_step", _kill_at(stop_after + 1, Freezing.after_step))
        with pytest.raises(_KilledError):
            run.train(recipe, tmp_path)
    run.train(recipe, tmp_path, resume=True)
    there, here = (Checkpoint.read(path / "last.pt").content for path in (folder, tmp_path))
    for part in ("model", "optimizer", "methods"):
        assert_equal(there[part], here[part], part)


class _KilledError(Exception):
    pass


def _kill_at(step, after_step):
    def after(self, now):
        if now == step:
            raise _KilledError
        after_step(self, now)

    return after


def test_a_finished_run_resumes_to_itself(finished):
    folder, figures = finished
    assert run.train(quantized(), folder, resume=True) == figures


def test_a_run_is_not_overwritten(finished):
    folder, _ = finished
    with pytest.raises(CheckpointError) as caught:
        run.train(quantized(), folder)
    assert str(caught.value) == f"run folder {folder}: holds a run already; continue it by --resume, or give another by --folder"


def test_a_checkpoint_that_lies_alone_is_not_overwritten(tmp_path):
    (tmp_path / "best.pt").write_bytes(b"precious")
    with pytest.raises(CheckpointError, match=r"holds best.pt already; allowed: a new or an empty folder$"):
        run.train(quantized(), tmp_path)
    assert (tmp_path / "best.pt").read_bytes() == b"precious"


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file: is a file; allowed: a new or an empty folder$"):
        run.train(quantized(), tmp_path / "file")


def test_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        run.train(quantized(), tmp_path, resume=True)
    assert str(caught.value) == f"run folder {tmp_path}: no run to resume (it has no recipe.yaml)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("optimizer.lr=0.5", "optimizer.lr is 0.5, and 0.02 in the run that", id="value"),
        pytest.param("freezing.use_ema=false", "freezing.use_ema is False, and True in the run that", id="method"),
    ],
)
def test_a_run_is_not_resumed_by_another_recipe(finished, override, message):
    folder, _ = finished
    with pytest.raises(RecipeError, match=message):
        run.train(quantized("freeze", override), folder, resume=True)


def test_what_changes_no_number_may_change_at_a_resume(finished):
    folder, figures = finished
    assert (
        run.train(quantized("freeze", "training.log_every=1", "training.observations=3", "data.root=/elsewhere"), folder, resume=True)
        == figures
    )


def test_a_run_that_cannot_be_built_leaves_no_folder(tmp_path):
    with pytest.raises(DataError):
        run.train(quantized("freeze", "data.name=folder", f"data.root={tmp_path}/none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        pytest.param("lsq", [Tracking], id="lsq"),
        pytest.param("damp", [Dampening, Tracking], id="damp"),
        pytest.param("freeze", [Freezing], id="freeze"),
    ],
)
def test_methods_of_a_recipe(method, kinds):
    parts = assembled(quantized(method))
    assert [type(one) for one in parts.methods] == kinds
    assert [group["lr"] for group in parts.optimizer.param_groups] == [0.02, 1e-3]
    assert len(parts.coverage.weights) == 17


def test_annealing_knows_the_length_of_the_run():
    parts = assembled(quantized("freeze", "freezing.begin=0.5", "freezing.threshold=0.1", "freezing.final_threshold=0.01"))
    assert isinstance(freezing := parts.methods[0], Freezing)
    # 2 epochs of 5 steps
    assert [freezing.threshold(step) for step in (4, 5, 10)] == [0.0, 0.1, pytest.approx(0.01, rel=1e-12)]


def test_a_float_recipe_has_no_methods_and_one_learning_rate(tmp_path):
    recipe = load("digits_float", [*SHORT, "training.epochs=1"])
    parts = assembled(recipe)
    assert (parts.methods, parts.coverage, len(parts.optimizer.param_groups)) == ((), None, 1)
    figures = run.train(recipe, tmp_path / "float")
    assert run.validate(tmp_path / "float").top1 == figures["val_top1"]


def test_a_checkpoint_without_a_recipe_is_not_validated(tmp_path):
    write_checkpoint(tmp_path / "alone.pt", {"model": {}, "recipe": None})
    with pytest.raises(CheckpointError, match=r"alone.pt: holds no recipe; allowed: one that a recipe was trained into$"):
        run.validate(tmp_path / "alone.pt")


def test_validate_with_another_network_is_refused(finished):
    folder, _ = finished
    with pytest.raises(CheckpointError, match="of another model"):
        run.validate(folder, ["quantization=null", "freezing=null"])


def test_processes_of_torchrun_find_each_other_where_there_is_no_accelerator(monkeypatch):
    asked = []

    def accelerator(**settings):
        asked.append(settings["cpu"])
        return SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=1)

    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("stillbit.training.session.Accelerator", accelerator)
    Session.start(quantized().training)
    assert asked == [True]
