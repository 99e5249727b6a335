"""What a run writes down of its quantizers: whole, once, without touching a number."""

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from stillbit.prepare import reestimate_batchnorm
from stillbit.prepare.batchnorm import batchnorm_statistics
from stillbit.training import fit, validation
from stillbit.training.checkpoint import Checkpoint, write_checkpoint
from stillbit.training.record import read_record
from stillbit.training.saving import LAST
from tests.equality import assert_equal

TWENTY = {"batch_size": 9}  # steps of an epoch of the 360 images


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_record(folder / "record.jsonl") if event["event"] == kind]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, runs: ModuleType) -> Path:
    """A run of 20 steps, observed 5 times."""
    folder = tmp_path_factory.mktemp("observed")
    torch.manual_seed(0)
    runs.run(folder, method="freezing", data=runs.data_config(**TWENTY), training=runs.training_config(observations=5))
    return folder


def test_observations_come_at_their_steps(observed: Path) -> None:
    assert [event["step"] for event in events(observed, "observation")] == [0, 5, 10, 15, 20]
    assert [event["step"] for event in events(observed, "facts")] == [0]
    assert [(event["first_step"], event["step"]) for event in events(observed, "trajectories")] == [(8, 13), (15, 20)]
    assert [event["step"] for event in events(observed, "batchnorm")] == [20]


@pytest.mark.parametrize("word", ["oscillating", "frozen"])
def test_shares_are_those_of_the_step_lines(observed: Path, word: str) -> None:
    layers, lines = events(observed, "facts")[0]["layers"], {event["step"]: event for event in events(observed, "step")}
    seen = []
    for observation in events(observed, "observation")[1:]:
        known = [(share, math.prod(layer["shape"])) for share, layer in zip(observation[word], layers, strict=True) if share is not None]
        seen.append(sum(share * size for share, size in known) / sum(size for _, size in known))
        assert seen[-1] == pytest.approx(lines[observation["step"]][word], rel=1e-5)  # six digits
    assert max(seen) > 0.0


def test_restless_weights_were_followed(observed: Path) -> None:
    layers = [layer for event in events(observed, "trajectories") for layer in event["layers"]]
    followed = [weight for layer in layers for weight in layer["weights"]]
    assert followed
    assert all(len(weight["positions"]) == 6 and weight["frequency"] > 0.0 for weight in followed)
    assert any(len(set(weight["positions"])) > 1 for weight in followed)


def test_training_is_bitwise_the_same_without(observed: Path, tmp_path: Path, runs: ModuleType) -> None:
    data = runs.data_config(**TWENTY)
    runs.run(tmp_path, method="freezing", data=data, training=runs.training_config(observations=0))
    assert [events(tmp_path, kind) for kind in ("observation", "trajectories", "batchnorm")] == [[], [], []]
    assert len(events(tmp_path, "facts")) == 1
    there, here = (Checkpoint.read(folder / LAST).content for folder in (observed, tmp_path))
    for part in ("model", "optimizer", "methods", "position"):
        assert_equal(there[part], here[part], part)


def test_a_float_run_has_facts_and_batch_norms_alone(tmp_path: Path, runs: ModuleType) -> None:
    runs.run(tmp_path, data=runs.data_config(batch_size=75))
    (facts,) = events(tmp_path, "facts")
    assert (facts["layers"], facts["activations"], facts["other_bytes"]) == ([], [], facts["float_bytes"])
    assert [events(tmp_path, kind) for kind in ("observation", "trajectories")] == [[], []]
    assert events(tmp_path, "batchnorm")[0]["layers"] == ["1", "4", "8"]


def test_without_a_tracking_method_there_are_scales_but_no_shares(tmp_path: Path, runs: ModuleType) -> None:
    runs.run(tmp_path, method="dampening", data=runs.data_config(batch_size=75))
    last = events(tmp_path, "observation")[-1]
    assert set(last["oscillating"]) == set(last["frozen"]) == {None}
    assert all(scale > 0.0 for scale in last["scale"])
    assert events(tmp_path, "trajectories") == []


def test_divergences_are_those_from_other_batches(tmp_path: Path, runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[torch.Tensor]] = []

    def note_batches(model: torch.nn.Module, loader: Any, *, batches: int) -> Any:
        read.append([images.clone() for _, (images, _) in zip(range(batches), loader, strict=False)])
        if len(read) == 1:
            return reestimate_batchnorm(model, [(images,) for images in read[0]], batches=batches)
        return batchnorm_statistics(model)  # as if the population were what was re-estimated

    monkeypatch.setattr(validation, "reestimate_batchnorm", note_batches)
    monkeypatch.setattr(validation, "estimate_batchnorm", note_batches)
    position, *_ = runs.run(tmp_path, data=runs.data_config(batch_size=75))
    (found,) = events(tmp_path, "batchnorm")
    assert found["after"] == [0.0, 0.0, 0.0]
    assert sum(found["before"]) / 3 == pytest.approx(position.history[-1]["reestimation_divergence"], rel=1e-12)
    assert found["before"][0] > 0.0
    assert len(read) == 2
    assert not any(torch.equal(first, second) for first, second in zip(*read, strict=True))


def test_a_checkpoint_of_an_older_version_resumes(tmp_path: Path, runs: ModuleType) -> None:
    data, training = runs.data_config(batch_size=75), runs.training_config(epochs=2)
    runs.run(tmp_path, method="freezing", data=data, training=training)
    content = dict(Checkpoint.read(tmp_path / LAST).content)
    del content["observer"]
    write_checkpoint(tmp_path / LAST, content)
    position, *_ = runs.run(tmp_path, method="freezing", data=data, training=training, resume=True)
    assert position.step == 4


def test_long_runs_get_fewer_step_lines(tmp_path: Path, runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "MOST_STEP_LINES", 6)
    runs.run(tmp_path, data=runs.data_config(**TWENTY))
    assert [event["step"] for event in events(tmp_path, "step")] == [4, 8, 12, 16, 20]
