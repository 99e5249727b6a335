"""What an import did, key by key."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from stillbit.interop.placing import Target


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        kind: What the checkpoint was.
        placed: Places by published key; a tensor that was cut into parts has several.
        ignored: Why, by published key.
        filled: What of ours no key gives, by our name, and what it is instead.
        notes: What the user should know, one line each.
    """

    kind: str
    placed: Mapping[str, tuple[Target, ...]]
    ignored: Mapping[str, str] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a summary: one line, and one a reason or note."""
        lines = [f"{self.kind}: {len(self.placed)} of {len(self.placed) + len(self.ignored)} tensors placed"]
        lines += [f"{count} ignored: {reason}" for reason, count in Counter(self.ignored.values()).items()]
        lines += [f"{count} not in the checkpoint: {reason}" for reason, count in Counter(self.filled.values()).items()]
        return "\n".join((*lines, *self.notes))
