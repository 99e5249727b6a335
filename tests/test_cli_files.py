"""The verbs that look at what is trained, or write files of it: export, verify, inspect, predict, report, doctor."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from stillbit import deploy
from stillbit.errors import DataError


def test_report_says_where_the_page_is(command, tmp_path):
    start = {
        "event": "start",
        "step": 0,
        "time": 1.0,
        "recipe": {},
        "versions": {},
        "hardware": {},
        "images_per_step": 2,
        "steps_per_epoch": 3,
    }
    (tmp_path / "record.jsonl").write_text(json.dumps(start) + "\n")
    assert command("report", tmp_path) == (0, f"report: {tmp_path / 'report.html'}\n", "")
    assert command("report", tmp_path, "--output", tmp_path / "absent" / "x.html")[0] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"record.jsonl", "report.html"}


@pytest.mark.parametrize(
    ("words", "target", "options"),
    [
        pytest.param([], None, {"container": "auto", "runtime": None, "exact": False}, id="default"),
        pytest.param(
            ["--output", "a.onnx", "--container", "int4", "--runtime", "1.23", "--exact"],
            Path("a.onnx"),
            {"container": "int4", "runtime": "1.23", "exact": True},
            id="all",
        ),
    ],
)
def test_export_prints_what_it_wrote(command, monkeypatch, words, target, options):
    calls = []

    def export(*arguments, **given):
        calls.append((arguments, given))
        return deploy.Exported(Path("runs/[a]/a.onnx"), 1_000, 8_160)

    monkeypatch.setattr(deploy, "export", export)
    code, out, _ = command("export", "runs/[a]", "data.root=/x", "--format", "onnx", *words)
    assert (code, out) == (0, "runs/[a]/a.onnx  1,000 bytes  1/8.2 of float32 (8,160 bytes)\n")
    assert calls == [((Path("runs/[a]"), "onnx", target, ["data.root=/x"]), options)]


@pytest.mark.parametrize(
    ("ok", "code", "line"),
    [(True, 0, ""), (False, 4, "error: a.onnx: does not compute what runs/a has trained, within its bounds\n")],
    ids=["equal", "not equal"],
)
def test_verify_prints_what_it_found_and_leaves_with_it(command, monkeypatch, ok, code, line):
    calls = []

    class Found:
        def __init__(self):
            self.ok = ok

        def __str__(self):
            return "first\nsecond"

    def verify(*arguments, **options):
        calls.append((arguments, options))
        return Found()

    monkeypatch.setattr(deploy, "verify", verify)
    assert command("verify", "a.onnx", "runs/a", "--batches", 3, "--runtime", "openvino") == (code, "first\nsecond\n", line)
    assert calls == [((Path("a.onnx"), Path("runs/a"), ()), {"batches": 3, "runtime": "openvino"})]


def test_inspect_prints_what_it_found(command, monkeypatch):
    monkeypatch.setattr(sys.modules["stillbit.export.inspect"], "inspect", lambda path: f"layers of {path}")
    assert command("inspect", "a.onnx") == (0, "layers of a.onnx\n", "")


def test_predict_prints_a_table_an_image_and_goes_on_after_a_broken_one(command, monkeypatch):
    from stillbit.export import predict
    from stillbit.export.predict import Prediction

    calls = []

    def found(*arguments):
        calls.append(arguments)
        yield Path("a.png"), Prediction((("tabby [cat]", 0.75), ("dog", 0.25)))
        yield Path("b.png"), DataError("image b.png:\n cannot be read")
        yield Path("c.png"), Prediction((("dog", 1.0),))

    monkeypatch.setattr(predict, "predict", found)
    code, out, err = command("predict", "a.onnx", "a.png", "b.png", "c.png", "--top", 2)
    assert out == "a.png\n  tabby [cat]   75.00%\n  dog           25.00%\nc.png\n  dog  100.00%\n"
    assert (code, err) == (2, "error: image b.png: cannot be read\nerror: 1 image cannot be read\n")
    assert calls == [(Path("a.onnx"), [Path("a.png"), Path("b.png"), Path("c.png")], 2)]


def test_doctor_prints_findings_and_leaves_with_5(command, monkeypatch):
    import stillbit.doctor
    from stillbit.doctor import Examination, Finding

    calls = []
    found = Finding("diverged", "error", "step 3", "NaN [0]", "lower it")

    def examination(*arguments):
        calls.append(arguments)
        return Examination("there", (found,) if len(calls) < 3 else (), ("diverged", "failed"), ())

    monkeypatch.setattr(stillbit.doctor, "examine_path", examination)
    code, out, err = command("doctor", "there", "data.root=x")
    assert out == "there: 1 error; 2 rules checked\n\nerror    diverged: step 3: NaN [0]\n         do: lower it\n"
    assert (code, err) == (5, "error: there: 1 error\n")
    code, out, err = command("doctor", "there", "--json")
    assert json.loads(out)["findings"] == [asdict(found)]
    assert code == 5
    assert command("doctor", "there") == (0, "there: nothing wrong found; 2 rules checked\n", "")
    assert calls == [(Path("there"), ["data.root=x"]), (Path("there"), ()), (Path("there"), ())]
