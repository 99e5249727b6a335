"""The page explains every rule, with its severity, and no other."""

import re
from pathlib import Path

from stillbit.doctor.rules import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")


def test_every_rule_has_its_line() -> None:
    told = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \| ", PAGE, flags=re.MULTILINE))
    assert told == {rule.name: rule.severity for rule in RULES}


def test_every_rule_is_found_by_a_symptom_or_a_pitfall_or_speaks_for_itself() -> None:
    symptoms = PAGE.partition("## From symptom to rule")[2].partition("## Rules")[0] + PAGE.partition("## What users of other libraries")[2]
    plain = {"failed", "figure-not-finite", "unfinished", "images-skipped"}  # they say what happened
    assert {rule.name for rule in RULES} - set(re.findall(r"`([a-z-]+)`", symptoms)) == plain
