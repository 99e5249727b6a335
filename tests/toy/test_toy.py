"""The command: files, table and record; each file whole or not at all."""

import importlib
import json
from pathlib import Path

import pytest
from rich.console import Console

from stillbit.errors import DataError, ExportError
from stillbit.toy import animation
from stillbit.toy import toy as run_toy
from stillbit.toy.experiments import Findings
from stillbit.toy.setups import METHODS, ROWS

ROOT = Path(__file__).parents[2]
FILES = ["toy.gif", "toy.json", "toy.png", "toy_laws.png"]
command = importlib.import_module("stillbit.toy.toy")


@pytest.fixture
def quick(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measure", lambda _seed: findings)
    monkeypatch.setattr(animation, "STEPS", 2)


@pytest.mark.usefixtures("quick")
def test_it_writes_four_files_and_names_them(tmp_path: Path) -> None:
    printed = run(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == FILES
    for name in FILES:
        assert f"{tmp_path / 'a' / 'b' / name}" in printed


@pytest.mark.usefixtures("quick")
def test_the_table_has_a_line_a_method(tmp_path: Path) -> None:
    lines = run(tmp_path).splitlines()
    for name in METHODS:
        # Of the last 100 steps 33 are above, each between two flips.
        assert [line.split()[-4:] for line in lines if line.startswith(f"{name} ")] == [["33", "66", "0.330", "0.3300"]]


@pytest.mark.usefixtures("quick")
def test_the_record_says_what_it_ran_on_and_holds_every_number(tmp_path: Path) -> None:
    run(tmp_path)
    record = json.loads((tmp_path / "toy.json").read_text())
    assert set(record["versions"]) >= {"python", "torch", "stillbit"}
    assert record["hardware"]["cpus"] >= 1
    assert record["settings"]["seed"] == 0
    assert list(record["methods"]) == list(METHODS)
    assert list(record["rows"]) == list(ROWS)
    assert record["methods"]["EWGS"]["mean_value"] == pytest.approx(0.33)
    assert record["frequency_by_distance"]["without a line"] == {"x": [0.1, 0.2], "y": [0.1, 0.2], "expected": []}


@pytest.mark.usefixtures("quick")
def test_a_second_call_replaces_the_files(tmp_path: Path) -> None:
    (tmp_path / "toy.png").write_bytes(b"old")
    run(tmp_path)
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert names(tmp_path) == FILES


@pytest.mark.usefixtures("quick")
def test_a_picture_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(methods: object) -> bytes:
        raise RuntimeError("no font")

    monkeypatch.setattr(command, "animate", fail)
    with pytest.raises(RuntimeError, match="no font"):
        run(tmp_path)
    assert names(tmp_path) == []


def test_a_file_in_the_folders_place_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(DataError, match=r"^folder .*taken: cannot be made \(File exists\)$"):
        run(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "toy.png").mkdir()
    with pytest.raises(ExportError, match=r"toy\.png: cannot be written"):
        run(tmp_path)


@pytest.mark.end_to_end
def test_the_real_one_fits_a_page_and_agrees_with_the_record(tmp_path: Path) -> None:
    run(tmp_path)
    assert (tmp_path / "toy.gif").stat().st_size < 1_500_000
    methods = json.loads((tmp_path / "toy.json").read_text())["methods"]
    recorded = json.loads((ROOT / "benchmarks" / "results" / "toy.json").read_text())["methods"]
    for name in set(METHODS) - {"stochastic rounding"}:  # whose draws differ between versions of torch
        for count in ("oscillations_per_100_steps", "flips_per_100_steps"):
            assert methods[name][count] == pytest.approx(recorded[name][count], abs=2), name  # the cut of a cycle
        assert methods[name]["mean_loss"] == pytest.approx(recorded[name]["mean_loss"], abs=0.01), name


def run(folder: Path) -> str:
    console = Console(record=True, width=140)
    run_toy(folder, console)
    return console.export_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
