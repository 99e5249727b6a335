"""What differs between a page in the repository and on the site.

Comments for the tests (tests/docs/pages.py) are left out, and links to files of the repository outside docs/ become the bare path: the site
stands alone.
"""

import re
from typing import Any

_COMMENT = re.compile(r"^[ \t]*<!-- .*? -->[ \t]*\n", re.MULTILINE)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:benchmarks|examples|src|tests)/[^)]*\)")
_BLOCK = re.compile(r"(^[ \t]*```.*?^[ \t]*```[ \t]*$)", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Gives the page's text for the site; what stands in fenced blocks is left as it is."""
    parts = _BLOCK.split(markdown)
    parts[::2] = [_OUTSIDE.sub(lambda link: f"`{link[1].strip('`')}`", _COMMENT.sub("", part)) for part in parts[::2]]
    return "".join(parts)
