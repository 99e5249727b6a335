import pytest

from stillbit.errors import ReportError
from stillbit.report import write_report, writing
from tests.report.histories import history, recipe
from tests.report.reading_html import Page


@pytest.fixture
def read(monkeypatch):
    """Let folders be read as made-up runs."""
    monkeypatch.setattr(writing, "read_run", lambda folder: history(folder.name, folder=folder))


def test_the_page_goes_beside_what_it_is_of(tmp_path, read):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    assert write_report(folders[:1]) == tmp_path / "one" / "report.html"
    assert write_report(folders) == tmp_path / "report.html"
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["report.html"]
    assert Page.of((tmp_path / "report.html").read_text(encoding="utf-8")).texts["h1"] == ["2 runs of small_mobilenet, digits"]


@pytest.mark.parametrize("name", ["last.pt", "record.jsonl", "page"])
def test_no_file_of_another_kind_is_overwritten(tmp_path, read, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ReportError, match=r"not a name for a page; allowed: a file that ends in \.html$"):
        write_report([tmp_path], tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_given_twice_is_refused(tmp_path, read):
    with pytest.raises(ReportError, match=r"given twice; allowed: each run once$"):
        write_report([tmp_path, tmp_path / "." / "x" / ".."])


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, read):
    with pytest.raises(ReportError, match="cannot be written"):
        write_report([tmp_path], tmp_path / "absent" / "x.html")
    assert not list(tmp_path.iterdir())


def test_names_that_no_encoding_has_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "read_run", lambda folder: history("lone \ud800", folder=folder, recipe=recipe(data={"name": "\ud800"})))
    text = write_report([tmp_path], tmp_path / "x.html").read_text(encoding="utf-8")
    assert "lone ?" in Page.of(text).texts["p"][1]
