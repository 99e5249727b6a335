"""Two gloo processes against one that accumulates their halves as micro-batches, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stillbit.training.checkpoint import Checkpoint
from stillbit.training.record import read_record
from tests.launching import launch

pytestmark = pytest.mark.end_to_end

SCRIPT = [str(Path(__file__).with_name("runs.py"))]
STEPS = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run folders of one process and of two."""
    alone, both = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")
    fixed = ["--method", "freezing", "--batch-size", 9, "--epochs", 2, "--precision", "fp64", "--trace"]
    launch(SCRIPT, alone, *fixed, "--accumulation", 2)
    launch(SCRIPT, both, *fixed, "--accumulation", 1, ranks=2)
    return alone, both


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_record(folder / "record.jsonl") if event["event"] == kind]


def codes(folder: Path, rank: int) -> list[dict[str, tuple[Tensor, Tensor]]]:
    trace: list[dict[str, tuple[Tensor, Tensor]]] = torch.load(folder / f"codes.{rank}.pt", weights_only=True)
    assert len(trace) == STEPS
    return trace


def test_losses_against_a_teacher_are_equal(tmp_path: Path) -> None:
    losses = []
    for ranks, accumulation in ((1, 2), (2, 1)):
        folder = tmp_path / str(ranks)
        launch(SCRIPT, folder, "--taught", "--batch-size", 9, "--precision", "fp64", "--accumulation", accumulation, ranks=ranks)
        losses.append([event["loss"] for event in events(folder, "step")])
    assert len(losses[0]) == STEPS // 2
    assert losses[1] == pytest.approx(losses[0], rel=0, abs=1e-9)  # as below


def test_losses_are_equal(folders: tuple[Path, Path]) -> None:
    alone, both = ([event["loss"] for event in events(folder, "step")] for folder in folders)
    assert len(alone) == STEPS
    # The order of sums over ranks may differ; 1e-9 is far above float64's rounding and far below a different micro-batch.
    assert both == pytest.approx(alone, rel=0, abs=1e-9)


def test_ranks_hold_equal_codes_and_pins_at_every_step(folders: tuple[Path, Path]) -> None:
    _, both = folders
    for first, second in zip(codes(both, 0), codes(both, 1), strict=True):
        for name, (code, pins) in first.items():
            assert torch.equal(code, second[name][0])
            if pins is not None:
                assert torch.equal(pins, second[name][1])


def test_weights_were_pinned(folders: tuple[Path, Path]) -> None:
    assert events(folders[1], "epoch")[-1]["frozen"] > 0.05


def test_evaluations_are_equal(folders: tuple[Path, Path]) -> None:
    alone, both = (events(folder, "epoch") for folder in folders)
    assert len(alone) == 3
    for first, second in zip(alone, both, strict=True):
        assert (first["val_top1"], first["val_count"]) == (second["val_top1"], second["val_count"]) == (first["val_top1"], 90)
        assert second["val_loss"] == pytest.approx(first["val_loss"], rel=0, abs=1e-9)  # the order of sums


def test_reestimated_statistics_are_equal(folders: tuple[Path, Path]) -> None:
    alone, both = (Checkpoint.read(folder / "last.pt").content["model"] for folder in folders)
    for name in alone:
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(both[name], alone[name], rtol=0, atol=1e-12)  # the order of sums
