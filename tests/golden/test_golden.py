"""Every golden file found is one test, through the public classes; a new file of a known kind needs no new code."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden.batchnorm import check_bn
from tests.golden.case import OWN, SHARED, Case, find
from tests.golden.end_to_end import check_data, check_e2e, check_e2e_engine
from tests.golden.oscillation import check_damp, check_damp_total, check_tracker
from tests.golden.quantizer import check_quant
from tests.golden.ranges import check_range
from tests.golden.schedule import check_schedule
from tests.golden.vit_distillation import check_distillation

CHECKS: dict[str, Callable[[Case], dict[str, float]]] = {
    "quant": check_quant,
    "range": check_range,
    "tracker": check_tracker,
    "damp": check_damp,
    "damp_total": check_damp_total,
    "bn": check_bn,
    "schedule": check_schedule,
    "e2e": check_e2e,
    "e2e_engine": check_e2e_engine,
    "e2e_data": check_data,
    "KLLossSoft": check_distillation,
    "KDLossSoftandHard": check_distillation,
    "KDLossSoftandSoftTargetCE": check_distillation,
    "KDLossSoftandHard_qk": check_distillation,
    "KDLossSoftandHard_qkv": check_distillation,
    "KLTokenMSELoss": check_distillation,
}
PUBLISHED_CASES = 86


@pytest.mark.parametrize("path", find(SHARED), ids=lambda path: path.stem)
def test_published_numbers(path: Path, record_property: Callable[[str, object], None]) -> None:
    check(path, record_property)


@pytest.mark.parametrize("path", find(OWN), ids=lambda path: path.stem)
def test_our_numbers(path: Path, record_property: Callable[[str, object], None]) -> None:
    check(path, record_property)


def check(path: Path, record_property: Callable[[str, object], None]) -> None:
    case = Case.load(path)
    kind = case.config["op"]
    assert kind in CHECKS, f"{path.name} is of the unknown kind {kind!r}; known are {', '.join(CHECKS)}"
    errors = CHECKS[kind](case)
    record_property("golden", json.dumps({f"{kind}: {name}": error for name, error in errors.items()}))


def test_published_numbers_are_there() -> None:
    found = len(find(SHARED))
    if found < PUBLISHED_CASES:
        message = f"{PUBLISHED_CASES - found} of {PUBLISHED_CASES} published golden files are missing; STILLBIT_GOLDEN names their folder"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
