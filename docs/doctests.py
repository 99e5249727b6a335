"""Examples in docstrings stand in a code block on the site, also where no "Examples:" is above them."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^.+\n?)*)", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts a fence round each example that stands by itself; those below "Examples:" are indented, and known to griffe."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", obj.docstring.value)
