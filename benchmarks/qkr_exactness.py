"""Query-key reparameterization keeps a vision transformer's function: largest logit difference, without quantizers, biases included.

    python benchmarks/qkr_exactness.py

Each model has random biases (standard deviation 0.3), query and key included. "sharp" also multiplies the weights of queries and keys
by 20, so that attention is far from uniform. In float32 the difference stands next to what float32 costs anyway, the original model's own
distance to float64, and next to what the published code loses, which drops the biases of queries and keys. Writes
benchmarks/results/qkr_exactness.json.
"""

import copy
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from stillbit import QuantConfig, prepare
from stillbit.modules.attention import AttentionProducts
from stillbit.quantizers import Quantizer

MODELS: dict[str, Callable[[], nn.Module]] = {
    "deit_tiny_patch16_224 (timm)": lambda: timm.create_model("deit_tiny_patch16_224"),
    "deit_tiny_distilled_patch16_224 (timm)": lambda: timm.create_model("deit_tiny_distilled_patch16_224"),
    "swin_tiny_patch4_window7_224 (timm)": lambda: timm.create_model("swin_tiny_patch4_window7_224"),
    "swin_t (torchvision)": torchvision.models.swin_t,
}
BIAS_DEVIATION = 0.3
SHARPENING = {"as initialized": 1.0, "sharp": 20.0}
BATCH = 4


@torch.no_grad()
def randomized(model: nn.Module, sharpening: float) -> nn.Module:
    """Gives a model random biases, and its queries and keys larger weights."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=BIAS_DEVIATION)
        if name.endswith("qkv.weight"):
            parameter[: 2 * len(parameter) // 3] *= sharpening
    return model.eval()


def reparameterized(model: nn.Module, example: Tensor, *, published: bool = False) -> nn.Module:
    """Gives a copy with query-key reparameterization whose quantizers let everything pass."""
    model = copy.deepcopy(model)
    prepare(model, QuantConfig.for_vit("W2A2", published=published), example=example)
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.bypass = True
    return model


@torch.no_grad()
def largest_probability(model: nn.Module, x: Tensor) -> float:
    """Gives the mean, over all rows of all layers, of a row's largest attention probability: 1 over the tokens where uniform."""
    seen: list[Tensor] = []
    products = [module for module in model.modules() if isinstance(module, AttentionProducts)]
    for one in products:
        one.probability_quantizer.register_forward_pre_hook(lambda _, given: seen.append(given[0].amax(-1).flatten()))
    model(x)
    return float(torch.cat(seen).mean())


@torch.no_grad()
def measure(name: str, sharpening: str) -> dict[str, Any]:
    """Compares one model with its reparameterized self."""
    torch.manual_seed(0)
    model = randomized(MODELS[name](), SHARPENING[sharpening])
    x = torch.randn(BATCH, 3, 224, 224)
    twin = reparameterized(model, x[:1])
    without_biases = reparameterized(model, x[:1], published=True)
    single, single_twin = model(x), twin(x)
    model, twin, x = model.double(), twin.double(), x.double()
    double, double_twin = model(x), twin(x)
    return {
        "model": name,
        "attention": sharpening,
        "mean_largest_probability": largest_probability(twin, x),
        "largest_logit": float(double.abs().max()),
        "float64": float((double - double_twin).abs().max()),
        "float32": float((single - single_twin).abs().max()),
        "float32_original_to_float64": float((single - double).abs().max()),
        "float64_biases_dropped": float((without_biases.double()(x) - double).abs().max()),
    }


def main() -> None:
    rows = [measure(name, sharpening) for name in MODELS for sharpening in SHARPENING]
    record = {
        "command": "python benchmarks/qkr_exactness.py",
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "torchvision": torchvision.__version__},
        "hardware": platform.machine(),
        "what": f"largest absolute logit difference, {BATCH} random images, random weights, biases of deviation {BIAS_DEVIATION}, seed 0",
        "rows": rows,
    }
    (Path(__file__).parent / "results" / "qkr_exactness.json").write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
