"""Every fenced block of every page is run, or parsed for a reason that is counted."""

import ast
import importlib
import io
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillbit.recipes.load import resolve
from tests.docs.commands import check, commands_of, run
from tests.docs.not_run import NOT_RUN
from tests.docs.pages import ROOT, Block, Prelude, pages, read
from tests.docs.preludes import PRELUDES

END_TO_END = {"README.md", "docs/export.md", "docs/integrations.md", "docs/report.md", "docs/start.md"}
PAGES = [str(path.relative_to(ROOT)) for path in pages()]


def _parameters() -> list[Any]:
    return [pytest.param(page, marks=[pytest.mark.end_to_end] if page in END_TO_END else []) for page in PAGES]


@pytest.mark.parametrize("page", _parameters())
def test_blocks_of_a_page_run_from_top_to_bottom(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for item in read(ROOT / page):
        if isinstance(item, Prelude):
            names |= PRELUDES[item.name]()
        elif item.printed:
            assert printed.rstrip() == item.text.rstrip(), f"{item.page}:{item.line}: the block before it printed:\n{printed}"
        else:
            printed = _take(item, names)


def test_blocks_that_are_not_run_are_known() -> None:
    blocks = [item for page in pages() for item in read(page) if isinstance(item, Block) and item.not_run is not None]
    assert Counter((block.page, block.not_run) for block in blocks) == NOT_RUN


def test_every_prelude_is_explained() -> None:
    used = {item.name for page in pages() for item in read(page) if isinstance(item, Prelude)}
    explained = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert used <= set(PRELUDES)
    assert [name for name in PRELUDES if f"`{name}`" not in explained] == []


def _take(block: Block, names: dict[str, Any]) -> str:
    """Run or parse a block, and return what it prints."""
    printed = io.StringIO()
    if block.language == "python":
        code = compile("\n" * block.line + block.text, block.page, "exec")  # so that a traceback shows the page's line
        if block.not_run is not None:
            _check_names(block)
        else:
            with redirect_stdout(printed):
                exec(code, names)
    elif block.language in ("bash", "console"):
        for command in commands_of(block):
            if block.not_run is None:
                printed.write(run(command, block))
            else:
                check(command, block)
    elif block.language == "yaml":
        resolve({"model": {"name": "mobilenetv2_100"}} | yaml.safe_load(block.text))
    else:
        wrong = [line for line in block.text.splitlines() if line.startswith(("stillbit ", "$ ", "pip ", "python ", "import ", "from "))]
        assert not wrong, f"{block.page}:{block.line}: commands and code in a block of text: {wrong}"
    return printed.getvalue()


def _check_names(block: Block) -> None:
    """Look up what a block that is not run takes from stillbit."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stillbit":
            module = importlib.import_module(node.module or "")
            for each in node.names:
                assert hasattr(module, each.name), f"{block.page}:{block.line}: {node.module} has no {each.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("stillbit", "sb"):
            assert hasattr(importlib.import_module("stillbit"), node.attr), f"{block.page}:{block.line}: stillbit has no {node.attr}"
