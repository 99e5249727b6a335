"""What is told, and how: the worst first, one place for all, reasons once."""

import json

from stillbit.doctor.examine import check
from stillbit.doctor.finding import Examination, Finding, Unchecked
from stillbit.doctor.rules import RULES
from stillbit.doctor.subjects import FileSubject


def finding(severity: str, rule: str, where: str = "a") -> Finding:
    return Finding(rule, severity, where, f"what of {where}", "a cure")


def test_places_of_one_rule_share_two_lines() -> None:
    findings = tuple(finding("warning", "dead", place) for place in "abcde")
    assert str(Examination("net", findings, ("dead",), ())).splitlines() == [
        "net: 1 warning; 1 rules checked",
        "",
        "warning  dead: a: what of a (also b, c and 2 more)",
        "         do: a cure",
    ]


def test_reasons_are_told_once() -> None:
    unchecked = (Unchecked("x", "no data"), Unchecked("y", "no data"), Unchecked("z", "old record"))
    assert str(Examination("net", (), ("a", "b"), unchecked)).splitlines() == [
        "net: nothing wrong found; 2 rules checked, 3 not",
        "",
        "not checked: x, y: no data",
        "not checked: z: old record",
    ]


def test_many_rules_without_a_subject_are_counted() -> None:
    unchecked = tuple(Unchecked(rule, "no data") for rule in "abcdefg")
    assert str(Examination("net", (), (), unchecked)).splitlines()[-1] == "not checked: 7 rules: no data"
    kept = check("nothing", (), {FileSubject: "no file"})
    assert {one.rule for one in kept.unchecked} == {rule.name for rule in RULES if rule.subject is FileSubject}


def test_notes_are_not_wrong() -> None:
    noted = Examination("net", (finding("note", "x"),), ("x",), ())
    assert noted.ok
    assert noted.counted() == "1 note"
    assert not Examination("net", (finding("note", "x"), finding("warning", "y")), (), ()).ok


def test_it_is_a_sequence_of_findings_and_json() -> None:
    findings = (finding("error", "x"), finding("note", "y"))
    found = Examination("net", findings, ("x",), ())
    assert list(found) == [*findings]
    assert (found[0], found[-1:], len(found)) == (findings[0], findings[1:], 2)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["ok"] is False
    assert told["findings"][1] == {"rule": "y", "severity": "note", "where": "a", "what": "what of a", "cure": "a cure"}


def test_the_table_has_a_row_once_and_a_severity_a_name() -> None:
    assert len({(rule.name, rule.subject) for rule in RULES}) == len(RULES)
    severities = {(rule.name, rule.severity) for rule in RULES}
    assert len(severities) == len({rule.name for rule in RULES})


def test_nothing_to_examine_checks_nothing() -> None:
    assert check("nothing", ()).checked == ()
