"""What stands in a page: fenced blocks, and the comments that tell the tests how to run them.

    <!-- prelude: NAME -->            a function of preludes.py gives the names and files that a reader has at this point
    <!-- runs with: KEY=VALUE ... --> overrides of the `stillbit train` lines of the next block, so that it takes seconds
    <!-- printed -->                  the next block, of text, is what the block before it prints, to the letter
    <!-- not run: REASON -->          in the line before a block ```LANGUAGE no-run, which is parsed only; not_run.py counts them

Each comment is a line of its own.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = {"python", "bash", "console", "yaml", "text"}
_COMMENT = re.compile(r"\s*<!-- (?:(prelude|runs with|not run): (.+?)|(printed)) -->\s*")
_FENCE = re.compile(r"( *)```(.*)")


class PageError(ValueError):
    """A page that breaks the rules above."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Path of its page from the project's root.
        line: Line of its opening fence, from 1.
        language: One of LANGUAGES.
        text: What stands between the fences.
        overrides: For its `stillbit train` lines.
        not_run: Why it is not run; None if it is.
        printed: Whether it is the output of the block before it.
    """

    page: str
    line: int
    language: str
    text: str
    overrides: tuple[str, ...] = ()
    not_run: str | None = None
    printed: bool = False


@dataclass(frozen=True)
class Prelude:
    """A place where a page asks for what its reader has."""

    name: str


def pages() -> list[Path]:
    """All pages whose blocks count: the README and everything below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(path: Path) -> list[Block | Prelude]:
    """Return a page's preludes and blocks in the order of the page."""
    return parse(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))


def parse(text: str, page: str) -> list[Block | Prelude]:
    """As `read`, for a page's text."""
    found: list[Block | Prelude] = []
    comments: dict[str, str] = {}
    lines = enumerate(text.splitlines(), start=1)
    for number, line in lines:
        if comment := _COMMENT.fullmatch(line):
            if comment[1] == "prelude":
                found.append(Prelude(comment[2]))
            else:
                comments[comment[1] or comment[3]] = comment[2] or ""
            continue
        if fence := _FENCE.fullmatch(line):
            body = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                body.append(inner.removeprefix(fence[1]))
            else:
                raise PageError(f"{page}:{number}: block without an end")
            found.append(_block(page, number, fence[2], "\n".join(body), comments))
            comments = {}
        elif comments:
            raise PageError(f"{page}:{number}: a comment {list(comments)} must stand right before a block")
    return found


def _block(page: str, line: int, info: str, text: str, comments: dict[str, str]) -> Block:
    language, *rest = info.split() or [""]
    if language not in LANGUAGES:
        raise PageError(f"{page}:{line}: block of {language or 'no language'!r}; allowed: {', '.join(sorted(LANGUAGES))}")
    if rest not in ([], ["no-run"]) or (rest == ["no-run"]) != ("not run" in comments):
        raise PageError(f"{page}:{line}: 'no-run' and a line <!-- not run: REASON --> before it belong together")
    overrides = tuple(shlex.split(comments.get("runs with", "")))
    return Block(page, line, language, text, overrides, comments.get("not run"), printed="printed" in comments)
