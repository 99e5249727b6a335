"""Count the files that each journey of the architecture page visits.

    python -m benchmarks.journeys

A call into a file of the package is a visit; a call into a file that the journey has left before is a re-entry. Python's profiler sees
each call, so nothing is counted by hand and nothing is timed. The result holds the files' names.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import stillbit as sb
from benchmarks.result import header, parse, parser, write
from stillbit.recipes.load import load
from stillbit.run import train, validate

PACKAGE = str(Path(sb.__file__).parent)
SETTINGS = ("model.weights=random", "data.workers=0", "data.batch_size=64", "training.epochs=1", "training.tensorboard=false")
EXAMPLE = torch.randn(2, 3, 8, 8)


class Walk:
    """The files that were called, in order."""

    def __init__(self) -> None:
        self.path: list[str] = []

    def see(self, frame: Any, event: str, _argument: object) -> None:
        """Note a call that Python's profiler reports; the import of a module does not count."""
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name != "<module>":
            file = str(Path(code.co_filename).relative_to(PACKAGE))
            if self.path[-1:] != [file]:
                self.path.append(file)

    def figures(self, **more: int) -> dict[str, Any]:
        """Return the counts, and the files in the order of their first visit."""
        files = list(dict.fromkeys(self.path))
        return {"files": len(files), "reentries": len(self.path) - len(files), **more, "names": files}


def walk(call: Callable[[], Any]) -> Walk:
    """Watch one call."""
    found = Walk()
    sys.setprofile(found.see)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def a_step(folder: Path) -> dict[str, Any]:
    """Watch one step of a training run with freezing, from one update to the next."""
    found, steps = Walk(), 0

    def after_update(optimizer: object, *_: object) -> None:
        nonlocal steps
        if isinstance(optimizer, sb.JointOptimizer):
            steps += 1
            sys.setprofile(found.see if steps == 9 else None)

    handle = register_optimizer_step_post_hook(after_update)
    try:
        train(load("digits_w3a3_freeze", (*SETTINGS, "freezing.begin=0")), folder)
    finally:
        handle.remove()
        sys.setprofile(None)
    return found.figures()


@contextmanager
def counted(owner: Any, name: str) -> Iterator[list[int]]:
    """Count the calls of a function."""
    calls, function = [0], getattr(owner, name)

    def count(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return function(*args, **kwargs)

    setattr(owner, name, count)
    try:
        yield calls
    finally:
        setattr(owner, name, function)


def a_weight(folder: Path) -> dict[str, dict[str, Any]]:
    """Watch a small network become quantized, compute, and become a file."""
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 4))
    with counted(model, "forward") as runs:
        prepared = walk(lambda: sb.prepare(model, "W4A4", example=EXAMPLE))
    sb.calibrate(model, [EXAMPLE])
    inner, latent = model[3].train(), torch.randn(2, 8, 6, 6)
    return {
        "a weight, float to quantized: prepare": prepared.figures(forward_runs=runs[0]),
        "a weight, latent to value: a layer's forward": walk(lambda: inner(latent)).figures(),
        "a weight to a file: export_onnx": walk(lambda: sb.export_onnx(model.eval(), folder / "m.onnx", example=EXAMPLE)).figures(),
    }


def main() -> None:
    """Walk each journey, and write and print the files it visited."""
    given = parse(parser("journeys", __doc__, threads=1))
    record = header(given.command)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {"an image batch: one step of training": a_step(folder / "run"), **a_weight(folder)}
        found["a recipe key: load"] = walk(lambda: load("digits_w3a3_freeze", SETTINGS)).figures()
        with counted(torch, "load") as reads:
            validated = walk(lambda: validate(folder / "run"))
        found["a checkpoint: validate"] = validated.figures(reads=reads[0])
    for journey, figures in found.items():
        print(f"{journey}: " + ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in figures.items() if what != "names"))
    write(given.output, record | {"journeys": found})


if __name__ == "__main__":
    main()
