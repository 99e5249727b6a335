from pathlib import Path

import torch

from stillbit.training.record import RunRecord, read_record, surroundings


def write(path: Path, steps: range) -> None:
    with RunRecord(path) as record:
        for step in steps:
            record.write("step", step, loss=step / 10)


def steps(path: Path) -> list[int]:
    return [event["step"] for event in read_record(path)]


def test_events_are_lines_with_their_fields(tmp_path: Path) -> None:
    write(tmp_path / "record.jsonl", range(1, 3))
    events = list(read_record(tmp_path / "record.jsonl"))
    assert [{key: event[key] for key in ("event", "step", "loss")} for event in events] == [
        {"event": "step", "step": 1, "loss": 0.1},
        {"event": "step", "step": 2, "loss": 0.2},
    ]
    assert all(event["time"] > 0 for event in events)


def test_an_event_is_on_the_disk_at_once(tmp_path: Path) -> None:
    with RunRecord(tmp_path / "record.jsonl") as record:
        record.write("step", 1)
        assert steps(tmp_path / "record.jsonl") == [1]


def test_a_new_run_begins_a_new_record(tmp_path: Path) -> None:
    write(tmp_path / "record.jsonl", range(1, 5))
    write(tmp_path / "record.jsonl", range(1, 3))
    assert steps(tmp_path / "record.jsonl") == [1, 2]


def test_a_resumed_run_drops_what_it_lives_through_again(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    write(path, range(1, 9))
    with RunRecord(path, resumed_step=5) as record:
        record.write("step", 6)
    assert steps(path) == [1, 2, 3, 4, 5, 6]


def test_a_line_that_a_killed_process_left_unfinished_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    write(path, range(1, 3))
    with path.open("a") as file:
        file.write('{"event": "step", "st')
    assert steps(path) == [1, 2]
    with RunRecord(path, resumed_step=2) as record:
        record.write("step", 3)
    assert steps(path) == [1, 2, 3]


def test_resuming_without_a_record_begins_one(tmp_path: Path) -> None:
    with RunRecord(tmp_path / "record.jsonl", resumed_step=2) as record:
        record.write("step", 3)
    assert steps(tmp_path / "record.jsonl") == [3]


def test_surroundings_name_versions_and_hardware() -> None:
    found = surroundings()
    assert found["versions"]["torch"] == torch.__version__
    assert found["hardware"]["threads"] == torch.get_num_threads()
