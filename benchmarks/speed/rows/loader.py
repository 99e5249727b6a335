"""The loader alone against the need of the training step: what `benchmarks/loading.py` measures, where it is there."""

import importlib
import importlib.util

from benchmarks.speed.findings import Findings
from benchmarks.speed.settings import Settings

MODULE = "benchmarks.loading"


def available() -> bool:
    """Says whether there is a measurement of data loading."""
    return importlib.util.find_spec(MODULE) is not None


def measure(settings: Settings) -> Findings:
    """Runs it."""
    findings: Findings = importlib.import_module(MODULE).measure(settings)
    return findings
