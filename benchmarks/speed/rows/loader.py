"""The loader alone against the need of the training step: the figures of `benchmarks/loading.py`."""

import importlib
import importlib.util
from typing import Any

from benchmarks.speed.findings import Figure, Findings
from benchmarks.speed.settings import Settings

MODULE = "benchmarks.loading"
NO_LOADER = "one batch, no loader"


def missing() -> str | None:
    """Says what is not there: the measurement, or the photographs that it loads."""
    if importlib.util.find_spec(MODULE) is None:
        return "benchmarks/loading.py is not there"
    return None if importlib.util.find_spec("skimage") else "scikit-image is not installed (pip install -e '.[examples]')"


def measure(settings: Settings) -> Findings:
    """Measures; the short form with fewer images, rounds and numbers of workers."""
    loading = importlib.import_module(MODULE)
    sizes = {"images": 96 if settings.short else 320, "batch": settings.cnn_batch, "network": settings.cnn}
    shorter = {"rounds": 3, "workers": (0, 2)} if settings.short else {"rounds": min(settings.rounds, 7)}
    return findings_of(loading.measure(image_size=settings.image_size, **shorter, **sizes), sizes)


def findings_of(record: dict[str, Any], sizes: dict[str, Any]) -> Findings:
    """Gives the loaders' speeds as multiples of what the step takes; the one with most workers must keep up."""
    needed = record["step_images_per_second"][NO_LOADER]["median"]
    alone = {name: speed for name, speed in record["loader_images_per_second"].items() if name in record["step_images_per_second"]}
    found = Findings(sizes=sizes, notes=[f"the step takes {needed:.1f} images/s"])
    for name, speed in alone.items():
        target = 1.0 if name == list(alone)[-1] else None
        values = [speed["range"][0] / needed, speed["median"] / needed, speed["range"][1] / needed]
        found.figures.append(Figure.of(f"{name}: loader / step, images a second", values, target=target, higher_is_better=True))
    return found
