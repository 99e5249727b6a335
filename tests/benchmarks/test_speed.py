import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.result import write
from benchmarks.speed import __main__ as command
from benchmarks.speed import networks, record
from benchmarks.speed.baseline import EagerQuantizer, QuantizedLayer, TorchQuantizer
from benchmarks.speed.findings import Figure, Findings
from benchmarks.speed.networks import Training
from benchmarks.speed.pairs import race
from benchmarks.speed.peers import Peer
from benchmarks.speed.rows import loader, step, tracker
from benchmarks.speed.settings import Settings
from benchmarks.speed.table import ROWS, Row

TINY = Settings(
    rounds=1,
    short=True,
    elements=1000,
    cnn="test_efficientnet",
    cnn_batch=2,
    vit="test_vit",
    vit_batch=2,
    image_size=32,
    batches=2,
    network_settings={"test_vit": {"img_size": 32}},
)


class Uncompiled:
    """What torch.compile gives, except the compiler: it has a length where the model has one, and these have none."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.model(x)
        return outputs

    def __len__(self) -> int:
        raise TypeError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let GPU rows run here, and compiled ones uncompiled: even tracing would take minutes."""
    monkeypatch.setattr(Settings, "on_gpu", lambda settings: settings)
    monkeypatch.setattr(networks, "whole_compiled", Uncompiled)


@pytest.mark.end_to_end
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("row", [row for row in ROWS if row.name != "loader"], ids=lambda row: row.name)
def test_each_row_gives_figures_that_the_record_and_its_table_hold(row: Row, tmp_path: Path) -> None:
    facts = record.facts("a command", short=True, rounds=1)
    facts["rows"][row.name] = command.measure(row, TINY)
    write(tmp_path / "record.json", facts)
    read = json.loads((tmp_path / "record.json").read_text())
    assert read == facts
    figures = [Figure(**figure) for figure in read["rows"][row.name]["figures"]]
    # What a trick must earn to stay is written on the speed page: it is a lower bound, and targets are upper ones.
    assert row.name == "tricks" or any(figure.target is not None for figure in figures)
    assert len({figure.name for figure in figures}) == len(figures)
    assert all(figure.low <= figure.median <= figure.high for figure in figures)
    assert read["rows"][row.name]["sizes"]
    lines = record.table(read).splitlines()
    assert all(any(line.startswith(f"| {figure.name} |") for line in lines) for figure in figures)


def test_the_loader_is_measured_in_steps() -> None:
    speeds = {"workers 0": {"median": 50.0, "range": [40.0, 60.0]}, "workers 2": {"median": 100.0, "range": [80.0, 120.0]}}
    sent = {"workers 2, decoded before": {"median": 900.0, "range": [900.0, 900.0]}}
    needed = {"one batch, no loader": {"median": 20.0, "range": [19.0, 21.0]}} | speeds
    found = loader.findings_of({"loader_images_per_second": speeds | sent, "step_images_per_second": needed}, {"images": 320})
    assert [(figure.median, figure.low, figure.high, figure.target) for figure in found.figures] == [
        (2.5, 2.0, 3.0, None),
        (5.0, 4.0, 6.0, 1.0),
    ]


def test_a_table_line_shows_value_range_target_and_verdict() -> None:
    facts = record.facts("a command", short=False, rounds=7)
    figures = [
        Figure("step / float", 1.25, 1.2, 1.31, target=1.2),
        Figure("share", 0.9, 0.9, 0.9, target=0.85, higher_is_better=True),
        Figure("state", 15.0, 15.0, 15.0, unit="bytes"),
    ]
    facts["rows"]["one"] = record.row("a title", Findings(figures, notes=["a note"]), 1.0)
    facts["left_out"]["gpu_cnn"] = "no CUDA device"
    assert record.table(facts).splitlines()[-8:] == [
        "|---|---|---|---|",
        "| **one**: a title | | | |",
        "| step / float | 1.250x (1.200 to 1.310) | at most 1.2x | missed |",
        "| share | 0.900x | at least 0.85x | reached |",
        "| state | 15 bytes |  |  |",
        "",
        "- one: a note",
        "- gpu_cnn: left out, no CUDA device",
    ]


@pytest.mark.parametrize("kind", [EagerQuantizer, TorchQuantizer])
def test_the_baselines_do_the_same_job(kind: type[EagerQuantizer]) -> None:
    images = TINY.images(2)
    ours = networks.cnn(TINY)
    theirs = networks.with_layers(TINY, networks.job_of(ours), lambda layer, job: QuantizedLayer(layer, job, kind))
    assert Training(ours, images).loss().item() == Training(theirs, images).loss().item()


def test_an_absent_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Peer("absent-library", "absent_library", "", lambda *_: pytest.fail("built"))
    monkeypatch.setattr(step, "PEERS", (absent,))
    notes: list[str] = []
    assert list(step.installed_peers(TINY, {}, TINY.images(1), notes)) == []
    assert notes == ["absent-library: not installed, left out"]


def test_races_warm_up_and_alternate() -> None:
    calls: list[str] = []
    times = race({"a": (lambda: calls.append("own"), lambda: calls.append("base"))}, rounds=2)
    assert calls == ["own", "base", "base", "own"] * 2
    assert len(times["a"].own) == len(times["a"].reference) == 2


def test_saved_bytes_count_each_storage_once_and_no_parameter() -> None:
    training = Training(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 3)), torch.randn(2, 4))
    # Both layers' inputs, the logarithms of the softmax, the labels, and the total weight of the loss.
    assert training.saved_bytes() == 2 * 4 * 4 + 2 * 3 * 4 + 2 * 3 * 4 + 2 * 8 + 4


def test_all_tensors_behind_an_object_are_found() -> None:
    shared = torch.zeros(8)

    class Holder:
        def __init__(self) -> None:
            self.deep = {"a": [shared, (shared[2:],)]}
            self.model = torch.nn.Linear(100, 100)

    assert tracker.num_bytes(list(tracker.tensors_behind(Holder()))) == 32


def test_the_command_records_what_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def in_process(row: Row, arguments: list[str], folder: Path) -> dict[str, Any] | None:
        assert arguments[:2] == ["--rounds", "7"]
        return None if row.name == "tracker" else record.row(row.title, Findings([Figure("f", 1.0, 1.0, 1.0)]), 1.0)

    monkeypatch.setattr(command, "in_process", in_process)
    monkeypatch.setattr(
        sys, "argv", ["speed", "--short", "--threads", "1", "--only", "batchnorm,tracker", "--output", str(tmp_path / "out")]
    )
    assert command.main() == 1
    written = json.loads((tmp_path / "out").read_text())
    assert list(written["rows"]) == ["batchnorm"]
    assert written["left_out"] == {"tracker": "its process failed, see above"}
    monkeypatch.setattr(sys, "argv", ["speed", "--show", str(tmp_path / "out")])
    capsys.readouterr()
    assert command.main() == 0
    assert "| f | 1x |  |  |" in capsys.readouterr().out


def test_an_unknown_row_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", "--only", "cnn_stride"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "there is no row 'cnn_stride'; allowed: fake_quantize, cnn_step" in capsys.readouterr().err
