"""Runs of several stages, with a teacher, with repeated augmentation."""

import dataclasses
import signal
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from stillbit.errors import DivergedError, Interrupted
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.distill import Distiller
from stillbit.training.fit import fit
from stillbit.training.record import read_record
from stillbit.training.samples import SeededDataset
from stillbit.training.saving import LAST
from stillbit.training.session import Session
from stillbit.training.timetable import FinalStage
from tests.equality import assert_equal

TEN, TWO = {"batch_size": 18}, {"batch_size": 75}  # steps of an epoch of the 360 images: 10 of 2 x 18, or 2 of 2 x 75


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_record(folder / "record.jsonl") if event["event"] == "step"]


def fit_plain(
    runs: ModuleType,
    folder: Path,
    model: nn.Module,
    *,
    final_stage: FinalStage | None = None,
    distiller: Distiller | None = None,
    **training: Any,
) -> None:
    data = runs.load_some(runs.data_config(**TEN))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    config = runs.training_config(**training)
    fit(model, optimizer, data, config, Session.start(config), folder=folder, final_stage=final_stage, distiller=distiller)


@pytest.mark.parametrize("stop_at", [5, 10], ids=["mid-epoch", "end-of-epoch"])
def test_a_taught_run_resumes_to_the_same_bits(tmp_path: Path, runs: ModuleType, stop_at: int) -> None:
    settings = {"data": runs.data_config(**TEN), "training": runs.training_config(epochs=2), "taught": True}
    runs.run(tmp_path / "whole", **settings)
    with pytest.raises(Interrupted):
        runs.run(tmp_path / "halves", **settings, after_step=runs.send_at(stop_at, signal.SIGTERM))
    runs.run(tmp_path / "halves", **settings, resume=True)
    assert_equal(Checkpoint.read(tmp_path / "whole" / LAST).content, Checkpoint.read(tmp_path / "halves" / LAST).content, "")


def test_a_taught_run_trains_both_heads(tmp_path: Path, runs: ModuleType) -> None:
    before = runs.two_headed_model(seed=0).state_dict()
    _, model, *_ = runs.run(tmp_path, data=runs.data_config(**TWO), taught=True)
    after = model.state_dict()
    assert model.distilled_training
    assert all(not torch.equal(before[name], after[name]) for name in ("head.weight", "head_dist.weight", "dist_token"))


def test_a_teacher_that_says_nan_is_named(tmp_path: Path, runs: ModuleType) -> None:
    teacher = runs.tiny_model()
    teacher[12].bias.data[0] = float("nan")
    with pytest.raises(DivergedError, match=r"step 1: the loss is not finite, because the teacher's logits are not; the last checkpoint"):
        fit_plain(runs, tmp_path, runs.tiny_model(), distiller=Distiller(teacher))


def test_a_convolutional_network_is_taught(tmp_path: Path, runs: ModuleType) -> None:
    losses = []
    for teacher in (runs.tiny_model(), nn.Sequential(*runs.tiny_model()[:12], nn.Linear(12, 10))):
        folder = tmp_path / str(len(losses))
        fit_plain(runs, folder, runs.tiny_model(), distiller=Distiller(teacher))
        losses.append([event["loss"] for event in steps_of(folder)])
    assert losses[0][0] != losses[1][0]


def test_a_run_counts_the_epochs_of_all_its_stages(tmp_path: Path, runs: ModuleType) -> None:
    stages = {"epochs": 1, "cooldown_epochs": 1, "final_stage": FinalStage(epochs=1, lr=0.125)}
    fit_plain(runs, tmp_path, runs.tiny_model(), **stages)
    steps = steps_of(tmp_path)
    assert [event["learning_rate_0"] for event in steps] == [0.01] * 20 + [0.125] * 10
    assert Checkpoint.read(tmp_path / LAST).content["position"]["epoch"] == 3


def test_repeats_reach_the_sampler(tmp_path: Path, runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = SeededDataset.__getitem__

    def note(dataset: SeededDataset, key: Any) -> Any:
        drawn.append(key.sample)
        return draw(dataset, key)

    monkeypatch.setattr(SeededDataset, "__getitem__", note)
    data = runs.data_config(**TEN)
    augment = dataclasses.replace(data.augment, repeats=4)
    quiet = runs.training_config(reestimate_batches=0, evaluate_first=False)
    runs.run(tmp_path, data=dataclasses.replace(data, augment=augment), training=quiet)
    assert set(Counter(drawn[:360]).values()) == {4}
