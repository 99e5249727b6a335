"""The timing of the first page: which commands it takes from the page, and what it writes there."""

from pathlib import Path

from benchmarks.start_here import PAGE, sections, table


def test_every_block_that_runs_is_timed_in_its_section() -> None:
    found = dict(sections(Path("python")))
    assert list(found) == ["Train", "Deploy", "Predict", "In your own loop"]
    assert found["Train"][0] == ["python", "-m", "stillbit", "train", "digits_float"]
    assert [command[1] for command in found["Predict"]] == ["-c", "-m"]
    loop = found["In your own loop"]
    assert len(loop) == 1
    compile(loop[0][2], str(PAGE), "exec")
    assert "import onnxruntime" in loop[0][2]


def test_the_table_has_a_line_a_section_and_their_sum() -> None:
    measured = [
        {"section": "Train", "seconds": 20.4, "processor_seconds": 10.2},
        {"section": "Deploy", "seconds": 3.0, "processor_seconds": 2.0},
    ]
    versions = {"python": "3.11", "torch": "2.15", "onnxruntime": "1.31"}
    machine = {
        "command": "a command",
        "hardware": {"cores": 2},
        "versions": versions,
        "load_average_before": 0.1,
        "load_average_after": 1.0,
    }
    lines = table({**machine, "sections": measured, "install": {"seconds": 100.0, "megabytes": 5000}}).splitlines()
    assert lines[3:7] == [
        "| Install, 5,000 MB | 100 s | |",
        "| Train | 20 s | 10 s |",
        "| Deploy | 3 s | 2 s |",
        "| all of it | 23 s | 12 s |",
    ]
