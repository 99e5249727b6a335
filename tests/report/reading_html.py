"""Reads a page as a strict parser does: every element closed where it must be, each `id` once."""

import html.parser
import json
from dataclasses import dataclass, field
from typing import Any

_VOID = frozenset({"meta", "link", "br", "hr", "input"})


@dataclass
class Page(html.parser.HTMLParser):
    """What a page holds.

    Attributes:
        ids: Of all elements, in order.
        addresses: Of all `href` and `src`.
        texts: By element name, the text directly in each element of it.
        data: By `id`, what the tags with JSON hold.
        raw: Texts of scripts and styles.
    """

    ids: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    raw: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, dict[str, str | None]]] = []

    @classmethod
    def of(cls, text: str) -> "Page":
        """Read a page; assert that it is well formed."""
        page = cls()
        page.feed(text)
        page.close()
        assert not page._open
        assert len(set(page.ids)) == len(page.ids)
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.addresses += [given[name] or "" for name in ("href", "src") if name in given]
        self.handlers += [name for name in given if name.startswith("on")]
        self.texts.setdefault(tag, [])
        if tag not in _VOID:
            self.texts[tag].append("")
            self._open.append((tag, given))

    def handle_endtag(self, tag: str) -> None:
        name, _ = self._open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"

    def handle_data(self, data: str) -> None:
        if not self._open:
            assert not data.strip()
            return
        name, given = self._open[-1]
        if given.get("type") == "application/json":
            self.data[str(given["id"])] = json.loads(data)
        elif name in ("script", "style"):
            self.raw.append(data)
        self.texts[name][-1] += data
