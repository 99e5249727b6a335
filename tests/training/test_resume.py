"""Runs that are killed outright, on one process and on two, and resumed."""

import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from stillbit.training.checkpoint import Checkpoint
from stillbit.training.record import read_record
from tests.equality import assert_equal
from tests.launching import execute

pytestmark = pytest.mark.end_to_end

SCRIPT = [str(Path(__file__).with_name("runs.py"))]
STEPS = 20  # of 2 x 9 images, out of 360


def start(folder: Path, *options: str, ranks: int = 1) -> int:
    """Run the script to its end, whatever that is; return its exit code, and show what it wrote."""
    fixed = ["--batch-size", 9, "--accumulation", 2 // ranks, "--checkpoint-every", 3]
    done = execute(SCRIPT, folder, *fixed, *options, ranks=ranks)
    sys.stdout.write(f"{done.stdout[-2000:]}\n{done.stderr[-8000:]}")
    return done.returncode


def told(folder: Path) -> list[dict[str, Any]]:
    """Return the record without its clock and without what tells of the stop itself."""
    events = (event for event in read_record(folder / "record.jsonl") if event["event"] not in ("start", "resume", "end"))
    return [{name: value for name, value in event.items() if name not in ("time", "images_per_second")} for event in events]


@pytest.mark.parametrize(("method", "ranks"), [("float", 1), ("dampening", 1), ("freezing", 1), ("freezing", 2)])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, method: str, ranks: int) -> None:
    options = ("--method", method)
    assert start(tmp_path / "whole", *options, ranks=ranks) == 0
    step = random.Random(method + str(ranks)).randint(1, STEPS)
    killed = start(tmp_path / "killed", *options, "--kill-at", str(step), ranks=ranks)
    assert killed == (-signal.SIGKILL if ranks == 1 else 1)  # torchrun reports the death of its children by 1
    assert Checkpoint.read(tmp_path / "killed" / "last.pt").content["position"]["step"] < max(step, 1)
    assert start(tmp_path / "killed", *options, "--resume", ranks=ranks) == 0
    assert_equal(Checkpoint.read(tmp_path / "whole" / "last.pt").content, Checkpoint.read(tmp_path / "killed" / "last.pt").content)
    assert told(tmp_path / "killed") == told(tmp_path / "whole")
