import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.batchnorm_check import FILE, Check
from benchmarks.run_figures import Name, read_run, write_runs
from benchmarks.workspace import is_complete

START = {
    "recipe": {"data": {"image_size": 96}},
    "hardware": {"device": "x", "cpus": 2, "threads": 1},
    "versions": {"python": "3.11", "torch": "2.15"},
}
CHECK = Check(0.5, 0.6, 1.5, 1.25, {"bn1": 0.02, "bn2": 0.3}, {"bn1": 0.001, "bn2": 0.002}, ["bn2"])


def write_record(folder: Path, *, frozen: float | None = None, complete: bool = True, check: bool = True) -> Path:
    """Write the record of a run of two epochs of 60 s each, resumed an hour after the first."""
    shares = {"oscillating": 0.05} if frozen is None else {"oscillating": 0.05, "frozen": frozen}
    events: list[dict[str, Any]] = [
        {"event": "start", "step": 0, "time": 0.0, **START},
        {"event": "epoch", "step": 0, "time": 0.0, "epoch": 0, "val_top1": 0.1},
        {"event": "step", "step": 4, "time": 50.0, **shares},
        {"event": "epoch", "step": 5, "time": 60.0, "epoch": 1},
        {"event": "resume", "step": 5, "time": 3660.0},
        {"event": "step", "step": 8, "time": 3700.0, **shares, "oscillating": 0.0123456789},
        {"event": "epoch", "step": 10, "time": 3720.0, "epoch": 2, "val_top1": 0.4, "val_loss": 2.0, **shares},
    ]
    if complete:
        events.append({"event": "end", "step": 10, "time": 3720.0, "status": "complete"})
    folder.mkdir(parents=True)
    (folder / "record.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if check:
        (folder / FILE).write_text(json.dumps(CHECK._asdict()))
    return folder


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("float", Name("", "float", "", 0)),
        ("w4a4_ewgs_seed1", Name("", "w4a4", "ewgs", 1)),
        ("w3a3_damp10_seed12", Name("", "w3a3", "damp10", 12)),
        ("mobilenet_float_seed2", Name("mobilenet", "float", "", 2)),
        ("resnet_float_moving_seed2", Name("resnet", "float", "moving", 2)),
        ("resnet_w8a8_lsq_seed0", Name("resnet", "w8a8", "lsq", 0)),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_folder_name_says_what_the_run_is(folder: str, name: Name) -> None:
    assert Name.parse(folder) == name


def test_figures_are_the_checks_and_time_counts_only_while_training(tmp_path: Path) -> None:
    assert read_run(write_record(tmp_path / "run", frozen=0.3))._asdict() == {
        "epochs": 2,
        "steps": 10,
        "minutes": 2.0,
        "accuracy_before_training": 0.1,
        "accuracy_with_averages": 0.5,
        "accuracy": 0.6,
        "loss_with_averages": 1.5,
        "loss": 1.25,
        "oscillating": 0.05,
        "frozen": 0.3,
        "curve": {"steps": [4, 8], "oscillating": [0.05, 0.0123457], "frozen": [0.3, 0.3]},
        "divergence": {"before": [0.02, 0.3], "after": [0.001, 0.002]},
    }


def test_without_a_check_figures_are_the_last_epochs(tmp_path: Path) -> None:
    run = read_run(write_record(tmp_path / "run", check=False))
    assert (run.accuracy_with_averages, run.accuracy, run.loss_with_averages, run.loss) == (0.4, 0.4, 2.0, 2.0)
    assert run.divergence == {}
    assert run.frozen is None
    assert list(run.curve) == ["steps", "oscillating"]


@pytest.mark.parametrize("complete", [True, False], ids=["ended", "stopped"])
def test_a_run_is_complete_when_its_record_says_so(tmp_path: Path, complete: bool) -> None:
    assert is_complete(write_record(tmp_path / "run", complete=complete)) is complete
    assert not is_complete(tmp_path / "nothing")


def test_the_file_holds_finished_runs_their_layers_and_how_they_came_to_be(tmp_path: Path) -> None:
    workspace, path = tmp_path / "workspace", tmp_path / "results" / "runs.json"
    write_record(workspace / "float", check=False)
    write_record(workspace / "w4a4_lsq_seed1")
    write_record(workspace / "w4a4_damp10_seed3", complete=False)
    write_runs(Namespace(output=path, workspace=workspace, command="python script.py", trained_at="0123abc"), image_size=96)
    content = json.loads(path.read_text())
    assert list(content["runs"]) == ["float", "w4a4_lsq_seed1"]
    assert content["layers"] == {"": {"names": ["bn1", "bn2"], "depthwise": ["bn2"]}}
    assert (content["command"], content["commit"], content["seeds"], content["image_size"]) == ("python script.py", "0123abc", [0, 1], 96)
    assert content["versions"] == START["versions"]
    assert sum(line.startswith('"w4a4') for line in path.read_text().splitlines()) == 1, "a line a run"


def test_a_workspace_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path / "float", complete=False)
    with pytest.raises(FileNotFoundError, match="no finished run"):
        write_runs(Namespace(output=tmp_path / "runs.json", workspace=tmp_path, command="python script.py", trained_at=None))
