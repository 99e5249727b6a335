"""What the project says of itself in several files is the same in all of them."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import stillbit
from stillbit.errors import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTED = {"onnx-ir": "onnx_ir", "scikit-learn": "sklearn", "pillow": "PIL"}


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_pre_commit_checks_what_lint_does() -> None:
    rule = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    hooks = [hook["entry"] for repository in read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert hooks == [line.strip().replace("$(VENV)", ".venv") for line in rule[1].splitlines()]


def test_ci_runs_each_python_on_the_oldest_and_the_newest_torch() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert matrix["torch"] == ["oldest", "newest"]
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    oldest = next(one.removeprefix("torch>=") for one in PROJECT["dependencies"] if one.startswith("torch>="))
    assert f"'torch=={oldest}.*'" in (ROOT / "Makefile").read_text()


def test_extras_are_those_that_errors_name() -> None:
    for extra, libraries in EXTRAS.items():
        named = [re.split(r"[>=\[]", one)[0] for one in PROJECT["optional-dependencies"][extra]]
        assert sorted(IMPORTED.get(name, name) for name in named) == sorted(libraries)


def test_the_changelog_begins_with_this_version() -> None:
    heads = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased" if ".dev" in stillbit.__version__ else heads[1] == stillbit.__version__


def test_the_version_is_printed(command: Any) -> None:
    assert command("--version") == (0, f"{stillbit.__version__}\n", "")
