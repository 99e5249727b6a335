"""Count the files that each journey of the architecture page visits.

    python -m benchmarks.journeys

A call into a file of the package is a visit; a call into a file that the journey has left before is a re-entry. Python's profiler sees
each call, so nothing is counted by hand and nothing is timed.
"""

import json
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

PACKAGE = Path(sb.__file__).parent
SETTINGS = (
    "model.weights=random", "data.workers=0", "data.batch_size=64", "training.epochs=1", "training.tensorboard=false",
    "training.device=cpu", "training.reestimate_batches=2",
)  # fmt: skip


class Walk:
    """The files that calls have gone into, in order."""

    def __init__(self) -> None:
        self.path: list[str] = []

    def see(self, frame: Any, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)) and frame.f_code.co_name != "<module>":
            file = str(Path(frame.f_code.co_filename).relative_to(PACKAGE))
            if not self.path or self.path[-1] != file:
                self.path.append(file)

    @contextmanager
    def watching(self) -> Iterator[None]:
        sys.setprofile(self.see)
        try:
            yield
        finally:
            sys.setprofile(None)

    def figures(self) -> dict[str, Any]:
        files = list(dict.fromkeys(self.path))
        return {"files": len(files), "reentries": len(self.path) - len(files), "names": files}


def walk(call: Callable[[], Any]) -> dict[str, Any]:
    found = Walk()
    with found.watching():
        call()
    return found.figures()


def a_step(folder: Path) -> dict[str, Any]:
    """Watch the last of ten steps of a training run, from one update to the next."""
    from stillbit.recipes.load import load
    from stillbit.run import train

    found, steps = Walk(), 0

    def after_update(optimizer: object, *_: object) -> None:
        nonlocal steps
        if type(optimizer).__name__ == "JointOptimizer":
            steps += 1
            sys.setprofile(found.see if steps == 9 else None)

    handle = register_optimizer_step_post_hook(after_update)
    try:
        train(load("digits_w3a3_freeze", (*SETTINGS, "freezing.begin=0")), folder)
    finally:
        handle.remove()
        sys.setprofile(None)
    return found.figures()


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        found["an image batch: one step of training"] = a_step(folder)
        from stillbit.recipes.load import load
        from stillbit.run import validate

        def network() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
            )

        model, example, runs = network(), torch.randn(2, 3, 8, 8), 0

        def count(*_: object) -> None:
            nonlocal runs
            runs += 1

        model.register_forward_pre_hook(count)
        found["a weight, float to quantized: prepare"] = walk(lambda: sb.prepare(model, sb.QuantConfig.parse("W4A4"), example=example))
        found["a weight, float to quantized: prepare"]["forward_runs"] = runs
        sb.calibrate(model, [example])
        layer = model[3].train()
        inner = torch.randn(2, 8, 6, 6)
        found["a weight, latent to value: a layer's forward"] = walk(lambda: layer(inner))
        found["a weight to a file: export_onnx"] = walk(lambda: sb.export_onnx(model.eval(), Path(name) / "m.onnx", example=example))
        found["a recipe key: load"] = walk(lambda: load("digits_w3a3_freeze", SETTINGS))
        reads = 0
        before = torch.load

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal reads
            reads += 1
            return before(*args, **kwargs)

        torch.load = counted
        found["a checkpoint: validate"] = walk(lambda: validate(folder))
        torch.load = before
        found["a checkpoint: validate"]["reads"] = reads
    for journey, figures in found.items():
        extra = "".join(f", {figures[key]} {key}" for key in ("forward_runs", "reads") if key in figures)
        print(f"{journey}: {figures['files']} files, {figures['reentries']} re-entries{extra}")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
