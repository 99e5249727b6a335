import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import CheckpointError, DataError, DivergedError, Interrupted, RecipeError
from stillbit.quantizers import LSQ
from stillbit.training import loop
from stillbit.training.checkpoint import Checkpoint
from stillbit.training.data import Data
from stillbit.training.fit import fit
from stillbit.training.record import read_record
from stillbit.training.sampler import StepSampler
from stillbit.training.samples import SeededDataset
from stillbit.training.saving import BEST, LAST
from stillbit.training.seeding import POPULATION, REESTIMATION
from stillbit.training.session import Session

# An epoch of the 360 images has 20 steps of 2 x 9, 10 of 2 x 18, or 2 of 2 x 75.
TWENTY, TEN, TWO = {"batch_size": 9}, {"batch_size": 18}, {"batch_size": 75}


def assert_same(first: object, second: object, path: str = "") -> None:
    """Bitwise, in all tensors and numbers of two checkpoints."""
    if isinstance(first, Tensor):
        assert isinstance(second, Tensor)
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert isinstance(second, dict)
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list):
        assert isinstance(second, list)
        assert len(first) == len(second), path
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    else:
        assert first == second, path


def events(folder: Path) -> list[dict[str, Any]]:
    """The record without its clock."""
    clock = ("time", "images_per_second")
    return [{key: value for key, value in event.items() if key not in clock} for event in read_record(folder / "record.jsonl")]


@pytest.mark.parametrize("stop_at", [10, 20], ids=["mid-epoch", "end-of-epoch"])
@pytest.mark.parametrize("method", ["float", "freezing"])
def test_ten_and_ten_steps_are_twenty(tmp_path: Path, runs: ModuleType, method: str, stop_at: int) -> None:
    data, training = runs.data_config(**TWENTY), runs.training_config(epochs=2 if stop_at == 20 else 1)
    runs.run(tmp_path / "whole", method=method, data=data, training=training)
    stop = runs.send_at(stop_at, signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {stop_at}; saved in .*last.pt"):
        runs.run(tmp_path / "halves", method=method, data=data, training=training, after_step=stop)
    assert Checkpoint.read(tmp_path / "halves" / LAST).content["position"]["step"] == stop_at
    runs.run(tmp_path / "halves", method=method, data=data, training=training, resume=True)
    assert_same(Checkpoint.read(tmp_path / "whole" / LAST).content, Checkpoint.read(tmp_path / "halves" / LAST).content)
    kinds = ("step", "epoch", "facts", "observation", "trajectories", "batchnorm")
    told = [event for event in events(tmp_path / "halves") if event["event"] in kinds]
    assert told == [event for event in events(tmp_path / "whole") if event["event"] in kinds]


def test_the_frozen_run_above_freezes(tmp_path: Path, runs: ModuleType) -> None:
    position, *_ = runs.run(tmp_path, method="freezing", data=runs.data_config(**TWENTY))
    assert position.history[-1]["frozen"] > 0.01


def test_workers_and_a_second_signal_handler_change_nothing(tmp_path: Path, runs: ModuleType) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for workers in (0, 2):
        runs.run(tmp_path / str(workers), data=runs.data_config(**TEN, workers=workers))
    assert_same(Checkpoint.read(tmp_path / "0" / LAST).content, Checkpoint.read(tmp_path / "2" / LAST).content)
    assert signal.getsignal(signal.SIGTERM) is before


def test_record_of_a_run(tmp_path: Path, runs: ModuleType) -> None:
    runs.run(tmp_path, method="tracking", data=runs.data_config(**TEN), training=runs.training_config(log_every=4))
    found = events(tmp_path)
    observed = ("facts", "observation", "trajectories", "batchnorm")  # test_observed_runs.py
    found = [event for event in found if event["event"] not in observed]
    assert [event["event"] for event in found] == [
        "start",
        "epoch",
        "checkpoint",
        "step",
        "step",
        "epoch",
        "checkpoint",
        "checkpoint",
        "end",
    ]
    start, step, epoch = found[0], found[3], found[5]
    assert start["recipe"] == {"method": "tracking"}
    assert start["versions"]["torch"] == torch.__version__
    assert {"loss", "accuracy", "learning_rate_0", "learning_rate_1", "oscillating"} <= step.keys()
    assert {"val_top1", "val_top1_before_reestimation", "train_loss", "reestimation_divergence", "oscillating"} <= epoch.keys()
    assert found[-1]["status"] == "complete"


def test_reestimated_statistics_replace_the_running_ones(tmp_path: Path, runs: ModuleType) -> None:
    statistics = []
    for batches in (0, 4):
        config = runs.training_config(reestimate_batches=batches)
        _, model, *_ = runs.run(tmp_path / str(batches), data=runs.data_config(**TEN), training=config)
        statistics.append(model[1].running_mean)
    assert not torch.equal(*statistics)


def test_reestimation_has_a_stream_of_its_own(tmp_path: Path, runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, dict[str, Any]]] = []
    begin = StepSampler.begin

    def note(sampler: StepSampler, epoch: int, *args: int, **more: Any) -> None:
        begun.append((epoch, more))
        begin(sampler, epoch, *args, **more)

    monkeypatch.setattr(StepSampler, "begin", note)
    runs.run(tmp_path, data=runs.data_config(**TWO), training=runs.training_config(epochs=2))
    own, other = ({"num_steps": 2, "purpose": purpose} for purpose in (REESTIMATION, POPULATION))
    assert begun == [(0, {}), (1, own), (1, {}), (2, own), (2, other)]  # 4 batches of 2 steps


def test_the_epochs_loss_is_the_mean_of_its_steps(tmp_path: Path, runs: ModuleType) -> None:
    position, *_ = runs.run(tmp_path, data=runs.data_config(**TEN))
    losses = [event["loss"] for event in events(tmp_path) if event["event"] == "step"]
    assert position.history[-1]["train_loss"] == sum(losses) / 10


def test_checkpoints_come_every_n_steps(tmp_path: Path, runs: ModuleType) -> None:
    runs.run(tmp_path, data=runs.data_config(**TEN), training=runs.training_config(checkpoint_every=4))
    assert [event["step"] for event in events(tmp_path) if event["event"] == "checkpoint"] == [0, 4, 8, 10, 10]


def test_best_is_the_best(tmp_path: Path, runs: ModuleType) -> None:
    position, *_ = runs.run(tmp_path, data=runs.data_config(**TEN), training=runs.training_config(epochs=3))
    best = Checkpoint.read(tmp_path / BEST).content["position"]
    assert best["best_top1"] == position.best_top1 == max(figures["val_top1"] for figures in position.history[1:])
    assert best["history"][-1]["val_top1"] == position.best_top1


@pytest.mark.parametrize("settings", [{"clip_gradient_norm": 0.01}, {"label_smoothing": 0.3}, {"precision": "bf16"}, {"precision": "fp64"}])
def test_settings_act(tmp_path: Path, runs: ModuleType, settings: dict[str, Any]) -> None:
    losses = []
    for index, changes in enumerate(({}, settings)):
        data = runs.data_config(**TWO)
        runs.run(tmp_path / str(index), data=data, training=runs.training_config(**changes))
        losses.append([event["loss"] for event in events(tmp_path / str(index)) if event["event"] == "step"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("settings", [{"channels_last": True}, {"tensorboard": True}, {"deterministic": True}, {"evaluate_first": False}])
def test_settings_that_change_no_number(tmp_path: Path, runs: ModuleType, settings: dict[str, Any]) -> None:
    position, *_ = runs.run(tmp_path, data=runs.data_config(**TWO), training=runs.training_config(**settings))
    assert position.step == 2
    assert (tmp_path / "tensorboard").is_dir() == ("tensorboard" in settings)
    assert (position.history[0]["epoch"] == 0) == ("evaluate_first" not in settings)


def fit_digits(runs: ModuleType, folder: Path, model: nn.Module, change: Callable[[Data], Data] = lambda data: data, **more: Any) -> None:
    data = change(runs.load_some(runs.data_config(**TEN)))
    optimizer = more.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.01)
    config = runs.training_config(**more)
    fit(model, optimizer, data, config, Session.start(config), folder=folder)


def test_a_loss_that_turns_nan_names_the_layer_and_keeps_the_last_checkpoint(tmp_path: Path, runs: ModuleType) -> None:
    model = runs.tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def break_layer(*_: object) -> None:
        break_layer.steps += 1  # type: ignore[attr-defined]
        if break_layer.steps == 5:  # type: ignore[attr-defined]
            model[7].weight.data[0] = float("nan")

    break_layer.steps = 0  # type: ignore[attr-defined]
    optimizer.register_step_post_hook(break_layer)
    with pytest.raises(DivergedError, match=r"step 6: the loss is not finite, first at 7\.weight; the last checkpoint is kept in"):
        fit_digits(runs, tmp_path, model, optimizer=optimizer, checkpoint_every=2)
    kept = Checkpoint.read(tmp_path / LAST).content
    assert kept["position"]["step"] == 4
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())
    assert events(tmp_path)[-1]["status"] == "DivergedError"


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path, runs: ModuleType) -> None:
    model = runs.tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer.register_step_post_hook(lambda *_: model[12].bias.data.fill_(float("inf")))
    with pytest.raises(DivergedError, match=r"step 1: 12\.bias is not finite after the update"):
        fit_digits(runs, tmp_path, model, optimizer=optimizer, checkpoint_every=1)
    assert Checkpoint.read(tmp_path / LAST).content["position"]["step"] == 0


class Relabelled:
    """Digits with another label or image."""

    def __init__(self, dataset: SeededDataset, label: int | None = None, pixel: float | None = None) -> None:
        self.dataset, self.label, self.pixel = dataset, label, pixel

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> tuple[Tensor, int]:
        image, label = self.dataset[key]  # type: ignore[misc]
        if self.pixel is not None:
            image = image.float().index_fill(2, torch.tensor([0]), self.pixel)
        return image, label if self.label is None else self.label


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"label": 10}, "label 10 given, allowed: 0 to 9"), ({"pixel": float("nan")}, "holds a value that is not finite")],
    ids=["label", "nan-image"],
)
def test_bad_batches(tmp_path: Path, runs: ModuleType, changes: dict[str, Any], message: str) -> None:
    def change(data: Data) -> Data:
        return dataclasses.replace(data, train=Relabelled(data.train, **changes))  # type: ignore[arg-type]

    with pytest.raises(DataError, match=message):
        fit_digits(runs, tmp_path, runs.tiny_model(), change)


def test_another_number_of_classes(tmp_path: Path, runs: ModuleType) -> None:
    model = runs.tiny_model()
    model[12] = nn.Linear(12, 7)
    with pytest.raises(DataError, match="model output: 7 values an image given, the data has 10 classes"):
        fit_digits(runs, tmp_path, model, evaluate_first=False)


def test_an_incomplete_optimizer(tmp_path: Path, runs: ModuleType) -> None:
    model = runs.tiny_model()
    with pytest.raises(RecipeError, match=r"misses 1 trainable parameters, first 0\.weight"):
        fit_digits(runs, tmp_path, model, optimizer=torch.optim.SGD(list(model.parameters())[1:], lr=0.1))


def test_broken_images_are_named_once(tmp_path: Path, runs: ModuleType) -> None:
    class Torn:
        def __init__(self, source: Any) -> None:
            self.source = source

        def __len__(self) -> int:
            return len(self.source)

        def __getitem__(self, index: int) -> Any:
            if index % 40 == 0:
                raise OSError("image file is truncated")
            return self.source[index]

    def change(data: Data) -> Data:
        data.val.source = Torn(data.val.source)
        return data

    fit_digits(runs, tmp_path, runs.tiny_model(), change)
    skipped = [event["name"] for event in events(tmp_path) if event["event"] == "skipped"]
    assert skipped == ["sample 0", "sample 40", "sample 80"]
    kept = Checkpoint.read(tmp_path / LAST).content
    assert kept["position"]["skipped"] == dict.fromkeys(skipped, 3)  # evaluations: first, before and after
    assert [event for event in events(tmp_path) if event["event"] == "epoch"][-1]["val_count"] == 87


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"seed": 1}}, "of a run with seed 0; this one has 1"),
        ({"data": {"batch_size": 100}}, "of a run with steps_per_epoch 10; this one has 1"),
        ({"method": "dampening"}, r"of a run with methods \['Tracking'\], allowed: \['Dampening'\]"),
    ],
    ids=["seed", "batch_size", "method"],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, runs: ModuleType, changes: dict[str, Any], message: str) -> None:
    runs.run(tmp_path, method="tracking", data=runs.data_config(**TEN))
    data = runs.data_config(**{**TEN, **changes.get("data", {})})
    training = runs.training_config(**changes.get("training", {}))
    with pytest.raises(CheckpointError, match=message):
        runs.run(tmp_path, method=changes.get("method", "tracking"), data=data, training=training, resume=True)


def test_the_record_is_json_all_through(tmp_path: Path, runs: ModuleType) -> None:
    runs.run(tmp_path, method="dampening", data=runs.data_config(**TWO))
    for line in (tmp_path / "record.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no NaN or Infinity


def test_accuracies_of_all_evaluations_are_checked_for_a_collapse(
    tmp_path: Path, runs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[tuple[list[float], int]] = []
    monkeypatch.setattr(loop, "check_collapse", lambda top1, num_classes: checked.append((top1, num_classes)))
    position, *_ = runs.run(tmp_path, data=runs.data_config(**TWO), training=runs.training_config(epochs=3, evaluate_every=2))
    accuracies = [figures["val_top1"] for figures in position.history if "val_top1" in figures]
    assert len(accuracies) == 3  # before the first epoch, after the second, after the last
    assert checked[-1] == (accuracies, 10)


def test_a_penalty_in_the_loss_counts_once_a_step(tmp_path: Path, runs: ModuleType) -> None:
    weights = []
    for method in ("dampening", "dampening_in_loss", "lsq"):
        config = runs.training_config(precision="fp64")
        _, model, *_ = runs.run(tmp_path / method, method=method, data=runs.data_config(**TWENTY), training=config)
        weights.append(model[7].weight.detach())
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-12)  # the gradients add up in another order
    assert not torch.equal(weights[2], weights[0])


def test_every_scale_is_lifted_at_every_step(tmp_path: Path, runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    lifted: list[LSQ] = []
    monkeypatch.setattr(LSQ, "lift_scale", lambda quantizer: lifted.append(quantizer))
    _, model, *_ = runs.run(tmp_path, method="lsq", data=runs.data_config(**TWO))
    assert lifted == 2 * [module for module in model.modules() if isinstance(module, LSQ)]


@pytest.mark.end_to_end
def test_compiled_training_takes_the_same_steps(tmp_path: Path, runs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda _, x: x)  # the compiler draws other numbers
    losses = []
    for compiled in (False, True):
        config = runs.training_config(compile=compiled, precision="fp64")
        runs.run(tmp_path / str(compiled), method="lsq", data=runs.data_config(**TEN), training=config)
        losses.append([event["loss"] for event in events(tmp_path / str(compiled)) if event["event"] == "step"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)  # the compiler orders sums differently
