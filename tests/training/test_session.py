"""How a process ends: it leaves its group while the interpreter is whole, unless it failed."""

from pathlib import Path

import pytest

from tests.launching import execute

pytestmark = pytest.mark.end_to_end

SCRIPT = """
import atexit
import sys

from torch import distributed, ones

from stillbit.errors import DataError, Interrupted
from stillbit.training.config import TrainingConfig
from stillbit.training.session import Session

ENDS = {"Interrupted": Interrupted("stopped"), "DataError": DataError("broken")}


def tell():
    print("joined" if distributed.is_initialized() else "left", flush=True)


atexit.register(tell)  # handlers registered later run before
try:
    for _ in range(2):  # a process may train and then validate
        with Session.start(TrainingConfig(device="cpu")) as session:
            assert session.sum_over_ranks(ones(1)).item() == 2
            if sys.argv[1] in ENDS:
                raise ENDS[sys.argv[1]]
except (DataError, Interrupted):
    pass
"""


@pytest.mark.parametrize(("end", "told"), [("success", "left"), ("Interrupted", "left"), ("DataError", "joined")])
def test_processes_leave_their_group_unless_one_failed(tmp_path: Path, end: str, told: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = execute([str(script)], end, ranks=2)
    assert done.stdout.count("left") == (2 if told == "left" else 0), done.stderr
    assert done.stdout.count("joined") == (2 if told == "joined" else 0), done.stderr
    assert told == "joined" or done.returncode == 0, done.stderr  # torch aborts a process that is still joined
