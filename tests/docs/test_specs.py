"""Each section of a specification that code, tests or pages cite exists, and is cited in one form."""

import re
from pathlib import Path

from tests.docs.pages import ROOT

_CITATION = re.compile(r"docs/spec/(\w+)\.md((?:,|\s+and|\s+to)\s+\d+(?:\.\d+)*)+")
_SECTION = re.compile(r"^#+ (\d+(?:\.\d+)?) ", re.MULTILINE)
_OLD_FORM = re.compile(r"\b(?:cnn|vit) spec \d")
SOURCES = [path for folder in ("src", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py")) if path != Path(__file__)]


def test_cited_sections_exist() -> None:
    sections = {path.stem: set(_SECTION.findall(path.read_text(encoding="utf-8"))) for path in (ROOT / "docs" / "spec").glob("*.md")}
    cited = [(path, found) for path in SOURCES for found in _CITATION.finditer(path.read_text(encoding="utf-8"))]
    assert len(cited) > 50
    missing = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path, found in cited
        for section in re.findall(r"\d+(?:\.\d+)*", found[0].partition(".md")[2])
        if section not in sections.get(found[1], ())
    ]
    assert missing == []


def test_citations_have_one_form() -> None:
    assert [str(path.relative_to(ROOT)) for path in SOURCES if _OLD_FORM.search(path.read_text(encoding="utf-8"))] == []
