"""The demo, cut short: every run, the table, the pictures; a second call repeats nothing."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from stillbit.demo import demo as run_demo
from stillbit.demo.demo import BITS, METHODS
from stillbit.recipes.load import load
from stillbit.recipes.schema import Recipe
from stillbit.training.record import read_record

QUICK = ("training.epochs=1", "data.batch_size=256", "training.reestimate_batches=1")
QUICK_RANGES = ("quantization.weight_range.estimator=current_minmax", "quantization.activation_range.estimator=current_minmax")


def quick(name: str, overrides: Sequence[str]) -> Recipe:
    return load(name, (*overrides, *QUICK, *(() if name == "digits_float" else QUICK_RANGES)))


@pytest.mark.end_to_end
def test_demo_trains_prints_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("stillbit.demo.demo"), "load", quick)
    console = Console(record=True, width=140)
    run_demo(tmp_path, console)
    printed = console.export_text()
    for bits in BITS:
        assert (tmp_path / f"weights_w{bits}.png").stat().st_size > 10_000
        for name in METHODS.values():
            assert any(f"W{bits}A{bits}" in line and name in line and "KiB" in line for line in printed.splitlines())
    records = sorted(tmp_path.glob("*/record.jsonl"))
    assert len(records) == 1 + len(BITS) * len(METHODS)
    run_demo(tmp_path, Console(record=True, width=140))
    for record in records:
        trained = [event for event in read_record(record) if event["event"] == "epoch" and event["epoch"] == 1]
        assert len(trained) == 1, f"{record} was trained again"
