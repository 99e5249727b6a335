"""Shell lines of pages: all are parsed, and commands of ours are executed, in this process.

A line holds commands joined by `&&`, each with arguments and perhaps `> FILE`. In a `console` block commands follow `$ `, and all else is
output.
"""

import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import typer

from stillbit.cli import app, main
from stillbit.recipes import catalog
from stillbit.recipes.load import load
from tests.docs.pages import ROOT, Block, PageError

_ASSIGNMENT = re.compile(r"[A-Za-z_][\w.]*=.*")
_UsageError = typer.BadParameter.__base__  # of the click that typer brings
_KNOWN = {"cd", "cp", "ls", "mkdir", "git", "sudo", "python", "python3", "pip", "make", "source", "torchrun", "stillbit"}


@dataclass(frozen=True)
class Command:
    """One command: its words, and the file that its output goes to."""

    words: tuple[str, ...]
    output: str | None = None


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a shell block."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [command for line in lines for command in _split(line, block)]


def _split(line: str, block: Block) -> Iterator[Command]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    output = None
    for word in [*lexer, "&&"]:
        if word == "&&":
            if words:
                yield Command(tuple(words), output)
            words, output = [], None
        elif word == ">":
            output = ""
        elif set(word) <= set("&|;<>"):
            raise PageError(f"{block.page}:{block.line}: {word!r} in a command; allowed: '&&' and '> FILE'")
        elif output == "":
            output = word
        else:
            words.append(word)


def check(command: Command, block: Block) -> None:
    """Check what a command names: verbs, options, recipes and their keys; scripts and their options; targets; extras."""
    words = _without_environment(command.words)
    if words[0] not in _KNOWN:
        raise PageError(f"{block.page}:{block.line}: the tests do not know the command {words[0]!r}")
    if "-m" in words and (ours := words[words.index("-m") + 1 :])[0] == "stillbit":
        words = ours
    try:
        if words[0] == "stillbit":
            _check_verb(words[1:])
        elif words[0] in ("python", "python3"):
            _check_script(words[1:])
        elif words[0] == "make":
            _check_targets([word for word in words[1:] if "=" not in word])
        elif words[0] == "pip":
            _check_extras(words[1:])
    except (_UsageError, ValueError) as error:
        raise PageError(f"{block.page}:{block.line}: {' '.join(words)}: {error}") from error


def run(command: Command, block: Block) -> str:
    """Execute a `stillbit` command here, and return what it prints."""
    check(command, block)
    words = list(_without_environment(command.words))
    if words[0] != "stillbit":
        raise PageError(f"{block.page}:{block.line}: the tests run stillbit alone; mark {words[0]!r} no-run")
    if words[1] == "train":
        words += block.overrides
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            main(words[1:])
    except SystemExit as end:
        if end.code:
            raise PageError(f"{block.page}:{block.line}: {' '.join(words)} ended with {end.code}:\n{printed.getvalue()}") from end
    if command.output is not None:
        Path(command.output).write_text(printed.getvalue(), encoding="utf-8")
    return printed.getvalue()


def _without_environment(words: tuple[str, ...]) -> tuple[str, ...]:
    while _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    return words


def _check_verb(words: tuple[str, ...]) -> None:
    group = typer.main.get_command(app)
    with group.make_context("stillbit", list(words), resilient_parsing=False) as context:
        if words[0].startswith("-"):
            return
        name, verb, rest = group.resolve_command(context, list(words))  # type: ignore[attr-defined]
        with verb.make_context(name, rest, parent=context) as inner:
            given = inner.params
    recipe = given.get("recipe")
    if recipe in catalog.names():
        load(recipe, given.get("overrides") or ())
    elif recipe is not None and not recipe.endswith(".yaml") and recipe.upper() != recipe:
        raise ValueError(f"no recipe {recipe!r}")


def _check_script(words: tuple[str, ...]) -> None:
    if words[0] == "-m" and words[1] in ("pip", "pytest", "venv"):
        return
    path = ROOT / (words[1].replace(".", "/") if words[0] == "-m" else words[0])
    if words[0] == "-m":
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        raise ValueError(f"no script {path.relative_to(ROOT)}")
    shared = (ROOT / "benchmarks" / name for name in ("result.py", "workspace.py"))
    sources = path.parent.glob("*.py") if path.stem == "__main__" else [path, *shared]
    source = "".join(each.read_text(encoding="utf-8") for each in sources)
    for word in words:
        if word.startswith("--") and f'"{word.partition("=")[0]}"' not in source:
            raise ValueError(f"{path.relative_to(ROOT)} has no option {word}")


def _check_targets(targets: list[str]) -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        if not re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE):
            raise ValueError(f"no target {target!r}")


def _check_extras(words: tuple[str, ...]) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        for extra in re.findall(r"^(?:\.|stillbit)\[([^]]+)\](?: @ .+)?$", word):
            if not set(extra.split(",")) <= set(known):
                raise ValueError(f"no extra {extra!r}")
