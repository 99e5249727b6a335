"""Runtimes behind one call."""

import pytest

from tests.launching import launch

SIGNALLED = """
import os, signal
from stillbit.export.runtime import open_session
from tests.export.chains import Writer, chain

model = Writer(chain()).write()
first = open_session(model, "openvino")
second = open_session(model, "openvino")
del first
del second  # in the order in which they were made, as the locals of a function go
caught = []
signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
os.kill(os.getpid(), signal.SIGTERM)
assert caught
"""


def test_a_process_that_used_openvino_lives_on_when_a_signal_comes() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install -e '.[openvino]'")
    launch(["-c", SIGNALLED])
