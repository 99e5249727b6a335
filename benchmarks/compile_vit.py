"""torch.compile(fullgraph=True) on a prepared DeiT-T and Swin-T: one training step against eager.

    python benchmarks/compile_vit.py

Prepared by `QuantConfig.for_vit("W4A4")` and calibrated on random images, drop path off. Compares the loss, and of each parameter the
gradient: the largest difference relative to its largest entry. In float64 compiled and eager are the same function. In float32 a sum
in another order may put an activation on the other side of a rounding boundary, and everything behind it moves; how far that is
ordinary stands next to it: eager float32 against eager float64. Writes benchmarks/results/compile_vit.json.
"""

import argparse
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
DTYPES = {"float32": torch.float32, "float64": torch.float64}

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


def measure(name: str, dtype: str) -> dict[str, Any]:
    """Compiles one model, and compares one step."""
    images, labels = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1)), torch.arange(BATCH)
    model = prepared(name, images)
    double = copy.deepcopy(model).double()
    given, model = images.to(DTYPES[dtype]), model.to(DTYPES[dtype])
    twin = copy.deepcopy(model)
    loss, gradients = step(model, model, given, labels)
    double_loss, double_gradients = step(double, double, images.double(), labels)
    begin = time.perf_counter()
    compiled_loss, compiled_gradients = step(twin, torch.compile(twin, fullgraph=True), given, labels)
    return {
        "model": name,
        "dtype": dtype,
        "first_compiled_step_seconds": round(time.perf_counter() - begin, 1),
        "loss": loss,
        "loss_difference": abs(loss - compiled_loss),
        "loss_difference_eager_to_float64": abs(loss - double_loss),
        "gradient_compiled_to_eager": worst_of_both(compiled_gradients, gradients),
        "gradient_eager_to_float64": worst_of_both(gradients, double_gradients),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=DTYPES)
    dtypes = [given] if (given := parser.parse_args().dtype) else list(DTYPES)
    target = Path(__file__).parent / "results" / "compile_vit.json"
    kept = [row for row in json.loads(target.read_text())["rows"] if row["dtype"] not in dtypes] if target.exists() else []
    record = {
        "command": "python benchmarks/compile_vit.py",
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, shared; {torch.get_num_threads()} threads",
        "rows": kept + [measure(name, dtype) for name in MODELS for dtype in dtypes],
    }
    target.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["rows"], indent=1))


if __name__ == "__main__":
    main()
