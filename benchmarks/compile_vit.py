"""torch.compile(fullgraph=True) on a prepared DeiT-T and Swin-T: one training step in float32 against eager, and against float64.

    python benchmarks/compile_vit.py

Prepared by `QuantConfig.for_vit("W4A4")` and calibrated on random images, drop path off. Loss, and for each parameter the largest
difference of its gradient relative to its largest entry, compiled to eager. A code sits on a rounding boundary's other side where
float32 sums in another order; what that does to a gradient stands beside it: eager float32 against eager float64. Writes
benchmarks/results/compile_vit.json.
"""

import copy
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from stillbit import QuantConfig, calibrate, prepare

MODELS = ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224")
BATCH = 4

Gradients = dict[str, Tensor]


def prepared(name: str, images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, drop_path_rate=0.0)
    prepare(model, QuantConfig.for_vit("W4A4"), example=images[:1])
    calibrate(model, [(images,)])
    return model.train()


def step(model: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> tuple[float, Gradients]:
    """Gives loss and gradients of one training step."""
    loss = nn.functional.cross_entropy(run(images), labels)
    loss.backward()
    return loss.item(), {name: parameter.grad.double() for name, parameter in model.named_parameters() if parameter.grad is not None}


def worst(found: Gradients, expected: Gradients, *, scales: bool) -> dict[str, Any]:
    """Gives the parameter whose gradient differs most, relative to its largest entry; among scales, or among all others."""
    relative = {
        name: float((found[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-30))
        for name, gradient in expected.items()
        if name.endswith(".scale") == scales
    }
    name = max(relative, key=relative.__getitem__)
    return {"parameter": name, "relative": relative[name], "largest_entry": float(expected[name].abs().max())}


def worst_of_both(found: Gradients, expected: Gradients) -> dict[str, Any]:
    return {"scales": worst(found, expected, scales=True), "others": worst(found, expected, scales=False)}


def measure(name: str) -> dict[str, Any]:
    """Compiles one model, and compares one step."""
    images, labels = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1)), torch.arange(BATCH)
    model = prepared(name, images)
    twin, double = copy.deepcopy(model), copy.deepcopy(model).double()
    loss, gradients = step(model, model, images, labels)
    double_loss, double_gradients = step(double, double, images.double(), labels)
    begin = time.perf_counter()
    compiled_loss, compiled_gradients = step(twin, torch.compile(twin, fullgraph=True), images, labels)
    return {
        "model": name,
        "first_compiled_step_seconds": round(time.perf_counter() - begin, 1),
        "loss": loss,
        "loss_difference": abs(loss - compiled_loss),
        "loss_difference_float32_to_float64": abs(loss - double_loss),
        "gradient_compiled_to_eager": worst_of_both(compiled_gradients, gradients),
        "gradient_eager_to_float64": worst_of_both(gradients, double_gradients),
        "gradient_compiled_to_float64": worst_of_both(compiled_gradients, double_gradients),
    }


def main() -> None:
    rows = [measure(name) for name in MODELS]
    record = {
        "command": "python benchmarks/compile_vit.py",
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, shared; {torch.get_num_threads()} threads",
        "rows": rows,
    }
    (Path(__file__).parent / "results" / "compile_vit.json").write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
