"""HTML that cannot be injected into: text is escaped unless it is `Markup` already; data stands in a script tag as JSON."""

import html
import json
from typing import Any

_VOID = frozenset({"br", "hr", "meta", "link"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | None) -> Markup:
    """Build an element.

    Args:
        name: Of the element.
        children: In order; all that is no `Markup` is escaped.
        attributes: By name, where `_` means `-`, and one at the end is dropped (`class_`); None leaves one out.

    Returns:
        The element.

    >>> tag("p", "a < b", tag("b", "&"), class_="note")
    '<p class="note">a &lt; b<b>&amp;</b></p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items() if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Any) -> Markup:
    """Put texts and elements end to end; texts are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(part) for part in parts))


def data_tag(identity: str, data: object) -> Markup:
    r"""Put data into a page, where a script reads it and no browser takes any of it for HTML.

    Args:
        identity: The element's `id`.
        data: What JSON can hold, without NaN or infinities.

    Returns:
        A script tag that holds JSON.

    >>> data_tag("x", "</script>")
    '<script type="application/json" id="x">"\\u003c/script\\u003e"</script>'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return tag("script", Markup(text), type="application/json", id=identity)
