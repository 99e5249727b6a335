"""The demo, cut short: every run, the table, the pictures; a second call repeats nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from stillbit.demo import demo as run_demo
from stillbit.demo.demo import BITS, METHODS, load
from stillbit.recipes.schema import Recipe

QUICK = ("training.epochs=1", "data.batch_size=256", "training.reestimate_batches=1")
QUICK_RANGES = ("quantization.weight_range.estimator=current_minmax", "quantization.activation_range.estimator=current_minmax")


def quick(name: str, overrides: Sequence[str]) -> Recipe:
    return load(name, (*overrides, *QUICK, *(() if name == "digits_float" else QUICK_RANGES)))


@pytest.mark.slow
def test_demo_trains_prints_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillbit.demo.demo.load", quick)
    console = Console(record=True, width=140)
    run_demo(tmp_path, console)
    printed = console.export_text()
    for bits in BITS:
        assert (tmp_path / f"weights_w{bits}.png").stat().st_size > 10_000
        for name in METHODS.values():
            assert any(f"W{bits}A{bits}" in line and name in line and "KiB" in line for line in printed.splitlines())
    records = {path: path.read_bytes() for path in tmp_path.glob("*/record.jsonl")}
    assert len(records) == 1 + len(BITS) * len(METHODS)
    run_demo(tmp_path, Console(record=True, width=140))
    steps = {path: path.read_text().count('"epoch": 1, "train_loss"') for path in records}
    assert all(
        path.read_text().count('"event": "epoch"') == before.decode().count('"event": "epoch"') for path, before in records.items()
    ), steps
