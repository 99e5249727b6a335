import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import main
from benchmarks.speed.findings import BYTES, SECONDS, Figure, Findings
from benchmarks.speed.record import KIND, row

HARDWARE = {"processor": "x", "cores": 2, "threads": 2, "memory_gib": 8, "gpu": None}


def record(path: Path, *figures: Figure, sizes: dict[str, Any] | None = None, name: str = "cnn_step", **others: Any) -> Path:
    """Write a record of one row."""
    rows = {name: row("a title", Findings(list(figures), sizes or {"batch": 8}), 1.0)}
    path.write_text(json.dumps({"kind": KIND, "hardware": HARDWARE, "rows": rows, "left_out": {}, **others}))
    return path


def ratio(median: float, name: str = "stillbit: step / float", **options: Any) -> Figure:
    return Figure(name, median, median, median, **options)


def test_a_regression_fails_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = record(tmp_path / "old", ratio(1.2), ratio(15.0, "bytes", unit=BYTES))
    new = record(tmp_path / "new", ratio(1.33), ratio(15.0, "bytes", unit=BYTES))
    assert main([str(old), str(new)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "worse: cnn_step, stillbit: step / float: 1.2 to 1.33 x (+10.8%)",
        "2 figures compared, 0 better, 1 worse by more than 10 %",
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(ratio(1.2), ratio(1.31), id="less-than-a-tenth"),
        pytest.param(ratio(0.9, higher_is_better=True), ratio(1.1, higher_is_better=True), id="higher-is-better"),
        pytest.param(ratio(3.0, unit=SECONDS), ratio(9.0, unit=SECONDS), id="seconds"),
        pytest.param(ratio(2.0, ours=False), ratio(4.0, ours=False), id="another-library"),
        pytest.param(ratio(0.0), ratio(0.0), id="nothing"),
    ],
)
def test_no_regression_passes(tmp_path: Path, before: Figure, after: Figure) -> None:
    assert main([str(record(tmp_path / "old", before)), str(record(tmp_path / "new", after))]) == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(ratio(0.9, higher_is_better=True), ratio(0.8, higher_is_better=True), id="higher-is-better"),
        pytest.param(ratio(0.0), ratio(1.0), id="from-nothing"),
    ],
)
def test_worse_is_seen_in_either_direction(tmp_path: Path, before: Figure, after: Figure) -> None:
    assert main([str(record(tmp_path / "old", before)), str(record(tmp_path / "new", after))]) == 1


def test_an_improvement_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(record(tmp_path / "old", ratio(1.5))), str(record(tmp_path / "new", ratio(1.2)))]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "better: cnn_step, stillbit: step / float: 1.5 to 1.2 x (-20.0%)"


def test_missing_rows_and_figures_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = record(tmp_path / "old", ratio(1.5), name="gpu_cnn")
    new = record(tmp_path / "new", ratio(1.2), left_out={"gpu_cnn": "no CUDA device"})
    assert main([str(old), str(new)]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "missing in the new file: gpu_cnn (no CUDA device)",
        "missing in the old file: cnn_step",
    ]
    assert main([str(record(tmp_path / "old", ratio(1.5), ratio(1.0, "bytes"))), str(new)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "missing in the new file: cnn_step, bytes"


def test_rows_of_other_sizes_are_named_and_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = record(tmp_path / "old", ratio(1.0)), record(tmp_path / "new", ratio(2.0), sizes={"batch": 2})
    assert main([str(old), str(new)]) == 0
    assert capsys.readouterr().out.startswith("not compared: cnn_step was measured with {'batch': 8}, then with {'batch': 2}\n")


def test_other_hardware_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = record(tmp_path / "old", ratio(1.0)), record(tmp_path / "new", ratio(1.0), hardware={**HARDWARE, "threads": 1})
    assert main([str(old), str(new)]) == 0
    assert capsys.readouterr().out.startswith("note: the two were measured on different hardware")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param(b"\xff\x00", "not JSON", id="binary"),
        pytest.param(b'{"kind": "sti', "not JSON", id="cut"),
        pytest.param(b'{"rows": {}}', "no record of speed", id="other-json"),
        pytest.param(b"[1]", "no record of speed", id="list"),
        pytest.param(json.dumps({"kind": KIND}).encode(), "different shapes", id="other-version"),
    ],
)
def test_a_foreign_file_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str) -> None:
    foreign = tmp_path / "foreign"
    if content is not None:
        foreign.write_bytes(content)
    assert main([str(record(tmp_path / "old", ratio(1.0))), str(foreign)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert reason in printed.err
    assert len(printed.err.splitlines()) == 1
