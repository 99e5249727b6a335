"""The architecture page names files that exist, and the layers that import-linter checks."""

import re
import tomllib

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_files_named_exist() -> None:
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", PAGE))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / "src" / "stillbit" / name).exists()] == []


def test_layers_are_those_that_are_checked() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]
    checked = [{name.strip().removeprefix("stillbit.") for name in layer.split("|")} for layer in contract["layers"]]
    block = re.search(r"```text\n(cli .*?)```", PAGE, re.DOTALL)
    assert block is not None
    assert [set(re.findall(r"\w+", layer)) for layer in block[1].split("->")] == checked
