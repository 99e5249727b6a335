import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # the benchmarks are scripts, not a package

from clipart_results import is_complete, read_run, spread, write_results

START = {
    "recipe": {"data": {"image_size": 112}},
    "hardware": {"device": "x", "cpus": 2, "threads": 1},
    "versions": {"python": "3.11", "torch": "2.15"},
}


def write_record(folder: Path, *, accuracy: float = 0.6, frozen: float | None = None, complete: bool = True) -> Path:
    """Write the record of a run of two epochs of 60 s each, resumed an hour after the first."""
    last: dict[str, Any] = {"epoch": 2, "val_top1_before_reestimation": accuracy - 0.1, "val_top1": accuracy, "oscillating": 0.05}
    if frozen is not None:
        last["frozen"] = frozen
    events: list[dict[str, Any]] = [
        {"event": "start", "step": 0, "time": 0.0, **START},
        {"event": "epoch", "step": 0, "time": 0.0, "epoch": 0, "val_top1": 0.1},
        {"event": "epoch", "step": 5, "time": 60.0, "epoch": 1},
        {"event": "resume", "step": 5, "time": 3660.0},
        {"event": "epoch", "step": 10, "time": 3720.0, **last},
    ]
    if complete:
        events.append({"event": "end", "step": 10, "time": 3720.0, "status": "complete"})
    folder.mkdir(parents=True)
    path = folder / "record.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_figures_come_from_the_first_and_the_last_epoch_and_time_counts_only_while_training(tmp_path: Path) -> None:
    run = read_run(write_record(tmp_path / "run", accuracy=0.6, frozen=0.3))
    assert run._asdict() == {
        "epochs": 2,
        "steps": 10,
        "accuracy_before_training": 0.1,
        "accuracy_before_reestimation": 0.5,
        "accuracy": 0.6,
        "oscillating": 0.05,
        "frozen": 0.3,
        "minutes": 2.0,
    }


@pytest.mark.parametrize("complete", [True, False], ids=["ended", "stopped"])
def test_a_run_is_complete_when_its_record_says_so(tmp_path: Path, complete: bool) -> None:
    assert is_complete(write_record(tmp_path / "run", complete=complete)) is complete
    assert not is_complete(tmp_path / "nothing" / "record.jsonl")


def test_the_table_has_a_line_a_variant_in_order_and_leaves_out_what_is_not_finished(tmp_path: Path) -> None:
    workspace, results = tmp_path / "workspace", tmp_path / "results"
    write_record(workspace / "float", accuracy=0.9)
    write_record(workspace / "w3a3_damp10_seed0", accuracy=0.6)
    write_record(workspace / "w3a3_lsq_seed0", accuracy=0.5)
    write_record(workspace / "w4a4_freeze_seed0", accuracy=0.8, frozen=0.25)
    write_record(workspace / "w4a4_lsq_seed0", accuracy=0.7)
    write_record(workspace / "w4a4_lsq_seed1", accuracy=0.6)
    write_record(workspace / "w4a4_damp_seed0", complete=False)
    write_results(workspace, results)
    text = (results / "efficientnet_clipart.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| float | 1 | 2 | | 90.0% | | | | 2 |",
        "| W4A4 LSQ | 2 | 2 | 10.0% (10.0% to 10.0%) | 55.0% (50.0% to 60.0%) | 65.0% (60.0% to 70.0%) | 5.0% (5.0% to 5.0%) |  | 2 |",
        "| W4A4 LSQ + freezing | 1 | 2 | 10.0% | 70.0% | 80.0% | 5.0% | 25.0% | 2 |",
        "| W3A3 LSQ | 1 | 2 | 10.0% | 40.0% | 50.0% | 5.0% |  | 2 |",
        "| W3A3 LSQ + dampening to 10 | 1 | 2 | 10.0% | 50.0% | 60.0% | 5.0% |  | 2 |",
    ]
    assert "--image-size 112 --epochs 2 --seeds 0 1`" in text
    content = json.loads((results / "efficientnet_clipart.json").read_text())
    assert sorted(content["runs"]) == [
        "float",
        "w3a3_damp10_seed0",
        "w3a3_lsq_seed0",
        "w4a4_freeze_seed0",
        "w4a4_lsq_seed0",
        "w4a4_lsq_seed1",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([0.5], "50.0%"), ([0.5, 0.7], "60.0% (50.0% to 70.0%)")],
    ids=["none", "one", "several"],
)
def test_spread(values: list[float], expected: str) -> None:
    assert spread(values) == expected
