"""The site: builds without a warning, needs nothing from a network, and its API pages leave no public name out."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

import stillbit
from tests.docs.pages import ROOT

LOADING = {("img", "src"), ("script", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("link", "href"), ("object", "data")}
DOORS = ["stillbit", *(f"stillbit.{room.name}" for room in pkgutil.iter_modules(stillbit.__path__) if room.ispkg)]


class Page(HTMLParser):
    """Collects what a built page loads, and what would look wrong in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.classes: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if (tag, name) in LOADING:
                self.loaded.append(value or "")
            if name == "class":
                self.classes |= set((value or "").split())


def test_the_site_builds_and_stands_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""})
    assert built.returncode == 0, built.stderr
    pages = {path.relative_to(tmp_path): Page(path) for path in tmp_path.rglob("*.html")}
    assert len(pages) > 30
    outside = [(str(path), each) for path, page in pages.items() for each in page.loaded if re.match(r"(https?:)?//", each)]
    assert outside == []
    styles = [
        str(path) for path in tmp_path.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8"))
    ]
    assert styles == []
    # Diagrams would be drawn by a script that the theme fetches; a docstring's `>>>` outside of "Examples:" becomes a quotation.
    wrong = [(str(path), "mermaid") for path, page in pages.items() if "mermaid" in page.classes]
    wrong += [(str(path), "blockquote") for path, page in pages.items() if "blockquote" in page.tags]
    assert wrong == []
    assert '"location":"methods/freezing.html' in (tmp_path / "search" / "search_index.json").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(_leaves(yaml.safe_load(settings)["nav"]))
    assert listed == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}


def test_every_public_name_has_its_place_in_the_api() -> None:
    shown = {id(_named(name)) for name in _documented()}
    missing = [f"{door}.{name}" for door in DOORS for name, thing in _public(door) if id(thing) not in shown]
    assert missing == []


def test_no_name_is_documented_twice() -> None:
    names = list(_documented())
    things = [id(_named(name)) for name in names]
    assert [name for name, thing in zip(names, things, strict=True) if things.count(thing) > 1] == []


def _documented() -> Iterator[str]:
    for page in (ROOT / "docs").rglob("*.md"):
        yield from re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def _public(door: str) -> Iterator[tuple[str, Any]]:
    for name, thing in vars(importlib.import_module(door)).items():
        if not name.startswith("_") and not inspect.ismodule(thing):
            yield name, thing


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from _leaves(inner)
