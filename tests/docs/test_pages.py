"""The rules of pages: what a block says of itself, and Markdown that reads alike on the site and in a repository's browser."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, PageError, Prelude, pages, parse

IDS = [str(path.relative_to(ROOT)) for path in pages()]


def test_blocks_and_preludes_come_in_order() -> None:
    text = "a\n<!-- prelude: one -->\n```python\nx = 1\n```\n<!-- runs with: a=1 b=[2,3] -->\n```bash\nstillbit train r\n```\n"
    assert parse(text, "p") == [
        Prelude("one"),
        Block("p", 3, "python", "x = 1"),
        Block("p", 7, "bash", "stillbit train r", ("a=1", "b=[2,3]")),
    ]


def test_a_block_in_a_list_loses_its_indentation() -> None:
    assert parse("- a\n\n    ```python\n    if x:\n        y\n    ```\n", "p") == [Block("p", 3, "python", "if x:\n    y")]


def test_a_block_of_text_can_be_what_was_printed() -> None:
    assert parse("<!-- printed -->\n```text\n1\n```\n", "p") == [Block("p", 2, "text", "1", printed=True)]


def test_a_block_that_is_not_run_has_a_reason() -> None:
    assert parse("<!-- not run: a hub -->\n```bash no-run\nx\n```\n", "p") == [Block("p", 2, "bash", "x", (), "a hub")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("```\nx\n```\n", "p:1: block of 'no language'", id="untagged"),
        pytest.param("```rust\nx\n```\n", "p:1: block of 'rust'", id="unknown"),
        pytest.param("```python\nx\n", "p:1: block without an end", id="open"),
        pytest.param("```bash no-run\nx\n```\n", "belong together", id="no_reason"),
        pytest.param("<!-- not run: a hub -->\n```bash\nx\n```\n", "belong together", id="reason_alone"),
        pytest.param("```bash norun\nx\n```\n", "belong together", id="misspelt"),
        pytest.param("<!-- runs with: a=1 -->\n\n```bash\nx\n```\n", "must stand right before a block", id="far"),
    ],
)
def test_other_blocks_are_refused(text: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        parse(text, "p")


@pytest.mark.parametrize("path", pages(), ids=IDS)
def test_lists_and_tables_stand_behind_an_empty_line(path: Path) -> None:
    """The site's Markdown takes them for part of the paragraph otherwise."""
    found = []
    before, inside = "", False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside and _begins(line) and not (_begins(before) or before[:1] in ("", " ", "#")):
            found.append(number)
        before = line
    assert found == []


@pytest.mark.parametrize("path", pages(), ids=IDS)
def test_a_page_has_one_title(path: Path) -> None:
    outside = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^# ", outside, re.MULTILINE)) == 1


def _begins(line: str) -> bool:
    return re.match(r"\s*([-*] |\d+\. |\|)", line) is not None
