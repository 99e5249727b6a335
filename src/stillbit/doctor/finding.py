"""What the doctor says: findings, and how many are told in a line or two each."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_NAMED = 3  # places that a line names
_NAMED_RULES = 6
_WIDTH = 9  # of the column of severities


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        rule: Name of the rule, the same in every version: `docs/doctor.md` explains it.
        severity: "error": what comes out is wrong; "warning": it is worse than need be; "note": worth knowing.
        where: A layer, quantizer, key of a recipe, or step.
        what: What was found, with its number.
        cure: What to do.
    """

    rule: str
    severity: Severity
    where: str
    what: str
    cure: str


@dataclass(frozen=True)
class Unchecked:
    """A rule that could not be checked.

    Attributes:
        rule: Its name.
        why: What was missing.
    """

    rule: str
    why: str


@dataclass(frozen=True)
class Examination(Sequence[Finding]):
    """All findings, the worst first. A sequence of them: empty means that nothing wrong was found.

    Attributes:
        subject: What was examined.
        findings: Errors, warnings, notes; within each in the order of the rules.
        checked: Names of the rules that were checked.
        unchecked: Those that could not be, and why.
    """

    subject: str
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    unchecked: tuple[Unchecked, ...]

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Finding, ...]: ...
    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        """Return a finding."""
        return self.findings[index]

    def __len__(self) -> int:
        """The number of findings."""
        return len(self.findings)

    @property
    def ok(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return all(finding.severity == "note" for finding in self.findings)

    def counted(self) -> str:
        """Return how many rules found something, as in `1 error, 2 warnings`.

        >>> Examination("net", (), ("a", "b"), ()).counted()
        'nothing wrong found'
        """
        rules = {finding.rule: finding.severity for finding in self.findings}
        counts = {severity: sum(one == severity for one in rules.values()) for severity in SEVERITIES}
        told = [f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items() if count]
        return ", ".join(told) or "nothing wrong found"

    def __str__(self) -> str:
        """Two lines a rule that found something, then what could not be checked."""
        lines = [f"{self.subject}: {self.counted()}; {len(self.checked)} rules checked{self._not_checked()}"]
        for findings in _by_rule(self.findings):
            lines += ["", *_told(findings)]
        reasons = _by_reason(self.unchecked)
        if reasons:
            lines += ["", *(f"not checked: {_enumerated(rules)}: {why}" for why, rules in reasons.items())]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def _not_checked(self) -> str:
        return f", {len(self.unchecked)} not" if self.unchecked else ""


def _by_rule(findings: Sequence[Finding]) -> Iterator[list[Finding]]:
    for rule in dict.fromkeys(finding.rule for finding in findings):
        yield [finding for finding in findings if finding.rule == rule]


def _told(findings: list[Finding]) -> list[str]:
    """Tell what one rule found: of several places, only the first with its figure."""
    first = findings[0]
    others = [finding.where for finding in findings[1:_NAMED]]
    more = f" and {len(findings) - _NAMED} more" if len(findings) > _NAMED else ""
    also = f" (also {', '.join(others)}{more})" if others else ""
    return [f"{first.severity:<{_WIDTH}}{first.rule}: {first.where}: {first.what}{also}", f"{'':<{_WIDTH}}do: {first.cure}"]


def _enumerated(rules: list[str]) -> str:
    return ", ".join(rules) if len(rules) <= _NAMED_RULES else f"{len(rules)} rules"


def _by_reason(unchecked: Sequence[Unchecked]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for one in unchecked:
        reasons.setdefault(one.why, []).append(one.rule)
    return reasons
