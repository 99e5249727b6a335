"""One thread, one seed and one tier for every test, and a table of golden errors after the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stillbit.cli import main

torch.set_num_threads(1)

TIERS = ("unit", "integration", "end_to_end")
UNITS = ("doctor", "golden", "interop", "modules", "numerics", "oscillation", "prepare", "quantizers", "recipes", "report")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Return each test its tier: the one that it is marked with, or that of its folder."""
    tests = Path(__file__).parent
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            in_tests = item.path.is_relative_to(tests)
            unit = not in_tests or item.path.relative_to(tests).parts[0] in UNITS
            item.add_marker("unit" if unit else "integration")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a command line that was called in this process may have set another number


@pytest.fixture
def command(capsys):
    """Run a command line; give exit code, standard output, standard error."""

    def call(*words):
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return call


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the largest error by golden kind. Here and not in tests/golden: pytest-xdist's controller loads no deeper conftest."""
    largest: dict[str, float] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "golden":
                for kind, error in json.loads(value).items():
                    largest[kind] = max(largest.get(kind, 0.0), error)
    if largest:
        terminalreporter.section("largest absolute error by golden kind")
        for kind, error in sorted(largest.items()):
            terminalreporter.write_line(f"{kind:50s} {error:.2g}")
