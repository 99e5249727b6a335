"""What benchmarks share: options, the header of a result, and its file."""

from pathlib import Path

import pytest

from benchmarks.result import RESULTS, earlier, header, parse, parser, write


def test_the_options_have_defaults_and_the_command_is_what_was_typed() -> None:
    given = parse(parser("loading", "A title."), ["--output", "a file.json"])
    assert given.command == "python -m benchmarks.loading --output 'a file.json'"
    assert (given.output, given.threads) == (Path("a file.json"), None)
    assert parse(parser("loading", "A title."), []).output == RESULTS / "loading.json"


def test_help_names_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(parser("loading", "A title.", threads=2), ["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "usage: python -m benchmarks.loading" in printed
    assert "what to write (default: benchmarks/results/loading.json)" in printed
    assert "(default: 2)" in printed


def test_a_result_holds_its_header_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "results" / "one.json"
    assert earlier(path) == {}
    record = header("a command", "timm")
    write(path, record | {"rows": [1, 2]})
    assert earlier(path) == record | {"rows": [1, 2]}
    assert list(record) == ["command", "date", "commit", "hardware", "versions", "load_average_before"]
    assert set(record["versions"]) == {"python", "torch", "timm"}
    assert {"processor", "cores", "threads"} < set(record["hardware"])
    assert list(path.parent.iterdir()) == [path]
