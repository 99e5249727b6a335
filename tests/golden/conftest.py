"""Prints the largest error by kind after a run of the golden tests."""

import json
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
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
