"""A run's record becomes its history: of a real run, of records made by hand, and of what is no record."""

import json
from pathlib import Path
from typing import Any

import pytest

from stillbit import run
from stillbit.errors import ReportError
from stillbit.recipes.load import load
from stillbit.report.history import ActivationHistory, BatchnormCheck, Histogram, LayerFacts, RunHistory, Series, Trajectory
from stillbit.report.reading import read_run

SURROUNDINGS = {"versions": {"torch": "2.9.0"}, "hardware": {"cpus": 2}}
START = {"event": "start", "step": 0, "time": 10.0, **SURROUNDINGS, "recipe": {"a": 1}, "images_per_step": 8, "steps_per_epoch": 4}
LAYER = {
    "name": "stem",
    "quantizer": "LSQ",
    "bits": 2,
    "low": -2,
    "high": 1,
    "shift": 0.0,
    "shape": [2, 3],
    "num_scales": 1,
    "num_bytes": 2,
}
FACTS = {"layers": [LAYER], "activations": [{"name": "stem.input_quantizer", "bits": 4}], "other_bytes": 40, "float_bytes": 60}
NUM_BINS = 51


def observation(step: int, scale: float | None) -> dict[str, Any]:
    columns = {"oscillating": [0.5], "frozen": [None], "scale": [scale], "smallest_scale": [0.1], "largest_scale": [0.3]}
    return event("observation", step, **columns, histograms=[[step] * NUM_BINS], activation_scale=[0.25])


def event(kind: str, step: int, time: float = 11.0, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "step": step, "time": time, **fields}


def write(folder: Path, *events: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "record.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    return folder


def history(folder: Path, *events: dict[str, Any]) -> RunHistory:
    return read_run(write(folder, START, *events))


def test_a_run_is_told_by_its_start_and_its_end(tmp_path: Path) -> None:
    found = history(tmp_path / "mine", event("end", 8, 31.5, status="complete", val_top1=0.5))
    assert (found.name, found.folder, found.recipe) == ("mine", tmp_path / "mine", {"a": 1})
    assert (found.versions, found.hardware) == (SURROUNDINGS["versions"], SURROUNDINGS["hardware"])
    assert (found.images_per_step, found.steps_per_epoch) == (8, 4)
    assert (found.status, found.reason, found.seconds) == ("complete", "", 21.5)


def test_a_run_that_has_not_ended_is_unfinished(tmp_path: Path) -> None:
    assert history(tmp_path, event("step", 1, loss=1.0)).status == "unfinished"


def test_an_error_gives_its_reason_until_the_run_is_resumed(tmp_path: Path) -> None:
    stopped = event("end", 1, status="Interrupted", reason="stopped by SIGTERM")
    found = history(tmp_path, stopped)
    assert (found.status, found.reason) == ("Interrupted", "stopped by SIGTERM")
    assert history(tmp_path, stopped, {**START, "event": "resume"}).status == "unfinished"


def test_time_before_a_resumption_does_not_count(tmp_path: Path) -> None:
    resumed = {**START, "event": "resume", "step": 1, "time": 5000.0, "hardware": {"cpus": 4}}
    found = history(tmp_path, event("step", 1, 15.0), resumed, event("step", 2, 5003.0))
    assert found.seconds == 8.0
    assert found.hardware == {"cpus": 4}


def test_figures_become_series(tmp_path: Path) -> None:
    steps = [event("step", step, epoch=1, loss=1 / step) for step in (1, 2)]
    found = history(tmp_path, *steps, event("epoch", 0, epoch=0, val_top1=0.1), event("epoch", 2, epoch=1, val_top1=0.5, train_loss=2.0))
    assert found.steps == {"loss": Series((1, 2), (1.0, 0.5))}
    assert found.epochs == {"val_top1": Series((0, 2), (0.1, 0.5)), "train_loss": Series((2,), (2.0,))}


def test_what_was_lived_through_twice_counts_once(tmp_path: Path) -> None:
    found = history(tmp_path, event("step", 2, loss=1.0), event("step", 1, loss=3.0), event("step", 2, loss=2.0))
    assert found.steps["loss"] == Series((1, 2), (3.0, 2.0))


def test_observations_become_histories_of_layers(tmp_path: Path) -> None:
    found = history(tmp_path, event("facts", 0, **FACTS), observation(0, 0.2), observation(4, None), observation(8, 0.4))
    (layer,) = found.layers
    assert layer.facts == LayerFacts("stem", "LSQ", 2, -2, 1, 0.0, (2, 3), 6, 1, 2)
    assert layer.oscillating == Series((0, 4, 8), (0.5, 0.5, 0.5))
    assert layer.frozen == Series((), ())
    assert layer.scale == Series((0, 8), (0.2, 0.4))
    assert (layer.smallest_scale.values[0], layer.largest_scale.values[0]) == (0.1, 0.3)
    assert layer.histograms[1] == Histogram(4, -3.05, 0.1, (4,) * NUM_BINS)
    assert layer.trajectories == ()
    assert found.activations == (ActivationHistory("stem.input_quantizer", 4, Series((0, 4, 8), (0.25, 0.25, 0.25))),)
    assert (found.other_bytes, found.float_bytes) == (40, 60)


def test_windows_become_trajectories_in_their_order(tmp_path: Path) -> None:
    weights = [{"index": 5, "frequency": 0.2, "positions": [0.4, None]}, {"index": 1, "frequency": 0.1, "positions": [1.5, 1.6]}]
    windows = [event("trajectories", step, first_step=step - 1, layers=[{"name": "stem", "weights": weights}]) for step in (8, 4)]
    first, second, third, _ = history(tmp_path, event("facts", 0, **FACTS), *windows).layers[0].trajectories
    assert (first.index, first.frequency, first.first_step, first.positions[0]) == (5, 0.2, 3, 0.4)
    assert first.positions[1] != first.positions[1]  # NaN
    assert second == Trajectory(1, 0.1, 3, (1.5, 1.6))
    assert third.first_step == 7


def test_batch_norms_are_read(tmp_path: Path) -> None:
    found = history(tmp_path, event("batchnorm", 8, layers=["bn1", "bn2"], before=[0.5, 0.25], after=[0.125, 0.0]))
    assert found.batchnorms == (BatchnormCheck("bn1", 0.5, 0.125), BatchnormCheck("bn2", 0.25, 0.0))


def test_a_record_without_the_later_events_has_no_layers(tmp_path: Path) -> None:
    found = history(tmp_path, event("step", 1, loss=1.0))
    assert (found.layers, found.activations, found.batchnorms, found.float_bytes) == ((), (), (), 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("", r"record .*record.jsonl: holds no event; allowed: that of a run that has begun$", id="empty"),
        pytest.param('{"event": "start", "st', r"holds no event", id="cut-in-the-first-line"),
        pytest.param("PK\x03\x04\n", r"damaged, or not written by stillbit's trainer; 0 events could be read$", id="foreign"),
        pytest.param("[1, 2]\n", r"not written by stillbit's trainer; 0 events could be read$", id="list"),
        pytest.param('{"loss": 1.0}\n', r"not written by stillbit's trainer; 0 events could be read$", id="another-jsonl"),
        pytest.param(json.dumps(START) + '\n{"event": "st\n', r"damaged, .*; 1 events could be read$", id="damaged-line"),
        pytest.param(json.dumps(event("step", 1)) + "\n", r"damaged, .*; 1 events could be read$", id="without-a-start"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "record.jsonl").write_text(content)
    with pytest.raises(ReportError, match=message) as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "record.jsonl").write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ReportError, match="damaged, or not written by stillbit's trainer"):
        read_run(tmp_path)


@pytest.mark.parametrize("change", [{"histograms": [[1, 2]]}, {"scale": []}, {"scale": None}], ids=["bins", "short", "missing"])
def test_observations_that_do_not_fit_the_facts_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match="damaged"):
        history(tmp_path, event("facts", 0, **FACTS), observation(0, 0.2) | change)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"^run folder .*: it has no record.jsonl; allowed: the folder of a run$"):
        read_run(tmp_path / "nothing")


def test_a_real_run(tmp_path: Path) -> None:
    ranges = [f"quantization.{kind}_range.estimator=current_minmax" for kind in ("weight", "activation")]
    short = [
        "model.weights=random",
        "data.batch_size=256",
        "training.epochs=2",
        "training.tensorboard=false",
        "training.reestimate_batches=2",
    ]
    figures = run.train(load("digits_w3a3_freeze", [*short, *ranges]), tmp_path)
    found = read_run(tmp_path)
    assert (found.status, found.recipe["quantization"]["weight_bits"]) == ("complete", 3)
    assert found.epochs["val_top1"].values[-1] == figures["val_top1"]
    assert [layer.facts.bits for layer in found.layers] == [8, *[3] * 15, 8]
    assert all(layer.scale.steps == tuple(range(11)) for layer in found.layers)  # 2 epochs of 5 steps: fewer than observations
    assert all(sum(one.counts) == layer.facts.num_weights for layer in found.layers for one in layer.histograms)
    assert len(found.activations) > 15
    assert len(found.batchnorms) == 16
    assert sum(layer.facts.num_bytes for layer in found.layers) + found.other_bytes < found.float_bytes / 2
