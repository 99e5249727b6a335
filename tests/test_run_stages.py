"""Runs with a teacher and an annealing stage: one run, whatever stops it."""

import pytest
import torch

from stillbit import run
from stillbit.errors import CheckpointError, RecipeError
from stillbit.oscillation import Annealing, Tracking
from stillbit.recipes.load import load
from stillbit.recipes.small_mobilenet import small_mobilenet
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.record import read_record
from tests.assembling import assembled
from tests.equality import assert_equal

pytestmark = pytest.mark.end_to_end

STEPS = 5  # an epoch, of 256 of the 1437 digits
STAGES = 2 * STEPS, STEPS  # one epoch and one of cool-down, one of annealing


def recipe(folder, *overrides):
    torch.manual_seed(5)
    teacher = folder / "teacher.pt"
    if not teacher.exists():
        torch.save(small_mobilenet().state_dict(), teacher)
    stages = ("training.epochs=1", "training.cooldown_epochs=1", "annealing.epochs=1", "annealing.lr=1e-4", "annealing.boundary_range=0.1")
    quick = (
        "model.weights=random",
        "data.batch_size=256",
        "data.augment.repeats=3",
        "data.augment.mixup=0.2",
        "training.tensorboard=false",
        "training.reestimate_batches=1",
        "training.evaluate_first=false",
        "training.checkpoint_every=1",
        "training.log_every=1",
        "quantization.weight_range.estimator=current_minmax",
        "quantization.activation_range.estimator=current_minmax",
    )
    taught = [
        f"distillation.teacher.{key}={value}" for key, value in (("name", "small_mobilenet"), ("source", "stillbit"), ("weights", teacher))
    ]
    optimizer = (
        "optimizer.name=adamw",
        "optimizer.lr=3e-4",
        "optimizer.schedule.per=step",
        "optimizer.schedule.warmup_epochs=1",
        "optimizer.decay_norms=false",
        "scale_optimizer=null",
    )
    return load("digits_w3a3_lsq", [*quick, *stages, *taught, *optimizer, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of both stages, never interrupted."""
    folder = tmp_path_factory.mktemp("stages")
    run.train(recipe(folder), folder / "whole")
    return folder


class _KilledError(Exception):
    pass


def _kill_before(step, after_step):
    def after(self, now):
        if now == step:
            raise _KilledError
        after_step(self, now)

    return after


@pytest.mark.parametrize("taken", [3, STAGES[0], STAGES[0] + 3], ids=["first-stage", "boundary", "second-stage"])
def test_a_run_resumes_to_the_same_bits_in_either_stage_and_between(finished, tmp_path, monkeypatch, taken):
    with monkeypatch.context() as patch:
        patch.setattr(Annealing, "after_step", _kill_before(taken + 1, Annealing.after_step))
        with pytest.raises(_KilledError):
            run.train(recipe(finished), tmp_path)
    assert Checkpoint.read(tmp_path / "last.pt").content["position"]["step"] == taken
    run.train(recipe(finished), tmp_path, resume=True)
    whole, killed = (Checkpoint.read(folder / "last.pt").content for folder in (finished / "whole", tmp_path))
    for part in ("model", "optimizer", "methods", "position"):
        assert_equal(whole[part], killed[part], part)


def test_the_record_tells_both_stages(finished):
    lines = [event for event in read_record(finished / "whole" / "record.jsonl") if event["event"] == "step"]
    rates = [{event[f"learning_rate_{group}"] for group in range(3)} for event in lines]
    assert all(len(rate) == 1 for rate in rates)
    assert [rate.pop() for rate in rates[STAGES[0] :]] == [1e-4] * STAGES[1]
    assert lines[-1]["free"] < 0.5
    assert "oscillating" in lines[-1]


def test_only_free_weights_moved_in_the_second_stage(finished, tmp_path):
    first_stage = recipe(finished, "annealing=null")
    run.train(first_stage, tmp_path)
    before, after = (Checkpoint.read(folder / "last.pt").content["model"] for folder in (tmp_path, finished / "whole"))
    moved = (before["blocks.1.0.conv_pw.weight"] != after["blocks.1.0.conv_pw.weight"]).double().mean()
    assert 0.0 < moved < 0.9
    assert not torch.equal(before["classifier.bias"], after["classifier.bias"])


def test_methods_stand_in_the_order_in_which_they_see_a_step(finished):
    parts = assembled(recipe(finished))
    annealing, tracking = parts.methods
    assert isinstance(annealing, Annealing)
    assert isinstance(tracking, Tracking)
    assert annealing.begin == STAGES[0] + 1


def test_the_teacher_is_in_no_optimizer_and_no_checkpoint(finished):
    parts = assembled(recipe(finished))
    held = {id(parameter) for group in parts.optimizer.param_groups for parameter in group["params"]}
    assert held.isdisjoint({id(parameter) for parameter in parts.distiller.teacher.parameters()})
    saved = Checkpoint.read(finished / "whole" / "last.pt").content["model"]
    assert saved.keys() == parts.model.state_dict().keys()


def test_a_teacher_changes_the_run_by_its_weights(finished, tmp_path):
    other = torch.load(finished / "teacher.pt", weights_only=True)
    torch.save({name: -tensor if name == "classifier.weight" else tensor for name, tensor in other.items()}, tmp_path / "other.pt")
    losses = []
    for weights in (finished / "teacher.pt", tmp_path / "other.pt"):
        short = recipe(finished, f"distillation.teacher.weights={weights}", "training.cooldown_epochs=0", "annealing=null")
        losses.append(run.train(short, tmp_path / weights.stem)["train_loss"])
    assert losses[0] != losses[1]


def test_a_new_run_begins_where_another_ended(finished, tmp_path):
    last = finished / "whole" / "last.pt"
    parts = assembled(recipe(finished, f"start={last}", "training.epochs=0", "training.cooldown_epochs=0"))
    saved = Checkpoint.read(last).content["model"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in parts.model.state_dict().items())
    assert isinstance(annealing := parts.methods[0], Annealing)
    assert annealing.begin == 1
    assert not parts.optimizer.state
    annealed = recipe(finished, f"start={last}", "training.epochs=0", "training.cooldown_epochs=0")
    figures = run.train(annealed, tmp_path / "annealed")
    assert figures["epoch"] == 1
    assert (
        run.train(recipe(finished, "start=moved.pt", "training.epochs=0", "training.cooldown_epochs=0"), tmp_path / "annealed", resume=True)
        == figures
    )


def test_a_start_that_is_another_network_is_refused(finished, tmp_path):
    with pytest.raises(CheckpointError, match="of another model"):
        assembled(recipe(finished, f"start={finished / 'whole' / 'last.pt'}", "model.num_classes=7"))
    with pytest.raises(CheckpointError, match=r"none.pt: no such file"):
        assembled(recipe(finished, f"start={tmp_path / 'none.pt'}"))


def test_a_start_of_other_widths_is_refused(finished):
    last = finished / "whole" / "last.pt"
    wide = recipe(finished, f"start={last}", "quantization.weight_bits=4")
    line = r"last.pt: trained with quantization.weight_bits \d; allowed: 4, as in this recipe$"
    with pytest.raises(CheckpointError, match=line):
        assembled(wide)
    with pytest.raises(CheckpointError, match=r"quantization\.activation_bits"):
        run.validate(last, ["quantization.activation_bits=7"])


def test_a_teacher_of_other_classes_leaves_no_folder(finished, tmp_path):
    with pytest.raises(RecipeError, match=r"^distillation.teacher: small_mobilenet has 7 classes; allowed: 10, as the data$"):
        run.train(recipe(finished, "distillation.teacher.num_classes=7"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
