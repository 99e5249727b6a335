"""The command: measures, draws, records, and says what was seen."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stillbit.errors import DataError
from stillbit.files import write_whole
from stillbit.toy.animation import animate
from stillbit.toy.experiments import DISTANCE, LAST, LEARNING_RATE, ROW, STEPS, Findings, measure
from stillbit.toy.pictures import draw_laws, draw_methods
from stillbit.toy.regression import Trajectory
from stillbit.toy.setups import BITS, ROW_STEPS
from stillbit.training.record import surroundings

ANIMATION, PICTURE, LAWS, RECORD = "toy.gif", "toy.png", "toy_laws.png", "toy.json"

_SEEN = (
    "Straight-through, the latent passes its optimum, climbs to the boundary between two codes, and flips there for ever: the gradient"
    " sees the code alone. How often is decided by the distance of the optimum from the grid point, not by the learning rate, which sets"
    " the height of the saw-tooth. EWGS and the stacked sigmoid multiply the gradient and so change that height only. Stochastic rounding"
    " holds the latent near its optimum and flips the code all the same. Dampening and freezing end it at the nearer code; annealing"
    " holds the code of the moment."
)


def toy(folder: Path, console: Console, seed: int = 0) -> None:
    """Measure; write an animation, two pictures and the record; print a table and what it shows.

    Args:
        folder: Where the files go; made if it is not there.
        console: Where the table goes.
        seed: Of all that is random.

    Raises:
        DataError: If the folder cannot be made.
        ExportError: If a file cannot be written.
    """
    _make(folder)
    console.print(f"One weight that would best be {DISTANCE:g}, on a grid of whole numbers; {STEPS} steps of SGD, a method at a time.")
    findings = measure(seed)
    record = json.dumps(_record(findings, seed), indent=1, allow_nan=False) + "\n"
    files = {
        RECORD: record.encode(),
        PICTURE: draw_methods(findings.methods),
        LAWS: draw_laws(findings),
        ANIMATION: animate(findings.methods),
    }
    for name, content in files.items():
        write_whole(folder / name, content)
    console.print(_table(findings))
    console.print(_SEEN, highlight=False)
    for name in files:
        console.print(f"{folder / name}", soft_wrap=True, highlight=False)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"folder {folder}: cannot be made ({error.strerror})") from error


def _end(trajectory: Trajectory) -> dict[str, float]:
    """Return what one weight does over its last steps."""
    flips = trajectory.flips()[:, 0]
    return {
        "oscillations_per_100_steps": 100 * float(trajectory.frequency(LAST)[0]),
        "flips_per_100_steps": 100 * float(flips[-1] - flips[-1 - LAST]) / LAST,
        "mean_value": float(trajectory.values[-LAST:].mean()),
        "mean_loss": float(trajectory.losses[-LAST:].mean()),
        "amplitude": float(trajectory.amplitude(LAST)[0]),
        "latent": float(trajectory.positions[-1, 0] * trajectory.scales[-1]),
        "scale": float(trajectory.scales[-1]),
    }


def _record(findings: Findings, seed: int) -> dict[str, Any]:
    curves = ("frequency_by_distance", "frequency_by_rate", "amplitude_by_rate", "frequency_by_dampening")
    return {
        "command": "stillbit toy",
        **surroundings(),
        "settings": {
            "seed": seed,
            "bits": BITS,
            "distance": DISTANCE,
            "learning_rate": LEARNING_RATE,
            "steps": STEPS,
            "last": LAST,
            "row_weights": ROW,
            "row_steps": ROW_STEPS,
        },
        "methods": {name: _end(trajectory) for name, trajectory in findings.methods.items()},
        **{name: {one: asdict(curve) for one, curve in getattr(findings, name).items()} for name in curves},
        "rows": {name: asdict(end) for name, end in findings.rows.items()},
    }


def _table(findings: Findings) -> Table:
    table = Table(box=None, pad_edge=False, title=f"The last {LAST} steps", title_justify="left")
    table.add_column("method")
    for name in ("oscillations", "flips", "mean value", "mean loss"):
        table.add_column(name, justify="right")
    for method, trajectory in findings.methods.items():
        end = _end(trajectory)
        counts = (f"{end[name]:.0f}" for name in ("oscillations_per_100_steps", "flips_per_100_steps"))
        table.add_row(method, *counts, f"{end['mean_value']:.3f}", f"{end['mean_loss']:.4f}")
    return table
