"""The loader alone against the speed of the training step: the figures of `benchmarks/loading.py`."""

import importlib.util
from typing import Any

from benchmarks import loading
from benchmarks.speed.findings import Figure, Findings
from benchmarks.speed.settings import Settings


def missing() -> str | None:
    """Return why the photographs are missing, None if they are there."""
    return None if importlib.util.find_spec("skimage") else "scikit-image is not installed (pip install -e '.[examples]')"


def measure(settings: Settings) -> Findings:
    """Measure; the short form uses fewer images, rounds and numbers of workers."""
    sizes: dict[str, Any] = {"images": 96 if settings.short else 320, "batch": settings.cnn_batch, "network": settings.cnn}
    rounds, workers = (3, (0, 2)) if settings.short else (min(settings.rounds, 7), (0, 1, 2))
    return findings_of(loading.measure(image_size=settings.image_size, rounds=rounds, workers=workers, **sizes), sizes)


def findings_of(record: dict[str, Any], sizes: dict[str, Any]) -> Findings:
    """Return the loaders' speeds as multiples of the step's; the loader with most workers must keep up."""
    needed = record["step_images_per_second"][loading.NO_LOADER]["median"]
    alone = {name: speed for name, speed in record["loader_images_per_second"].items() if name in record["step_images_per_second"]}
    found = Findings(sizes=sizes, notes=[f"the step takes {needed:.1f} images/s"])
    for name, speed in alone.items():
        target = 1.0 if name == list(alone)[-1] else None
        values = [speed["range"][0] / needed, speed["median"] / needed, speed["range"][1] / needed]
        found.figures.append(Figure.of(f"{name}: loader / step, images a second", values, target=target, higher_is_better=True))
    return found
