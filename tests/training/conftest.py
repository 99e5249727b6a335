"""The small run of `runs.py`, for tests that take it in this process."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).with_name("runs.py")


@pytest.fixture(scope="session")
def runs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stillbit_test_runs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
