"""Measures a training step of quantized networks against the float one: time, and bytes saved for backward.

    python benchmarks/step.py [--model mobilenetv2_100] [--batch 8] [--steps 7] [--threads 2] [--only float,stillbit]

All contenders take their steps in turn in one process, round by round, so that a machine that slows down slows all; medians and ratios
of paired rounds. Writes benchmarks/results/step_<model>_<date>.json.
"""

import argparse
import dataclasses
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import stillbit as sb

RESULTS = Path(__file__).parent / "results"


@dataclass
class Contender:
    """A network with its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def step(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()


class EagerQuantizer(nn.Module):
    """The usual chain of eager operations for LSQ, per tensor, 4 bits: what a straightforward implementation does."""

    def __init__(self, low: int, high: int, scale: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, x: Tensor) -> Tensor:
        scaled = x / self.scale
        rounded = scaled + (scaled.round() - scaled).detach()
        return rounded.clamp(self.low, self.high) * self.scale


class TorchQuantizer(EagerQuantizer):
    """torch's own learnable fake-quantize."""

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros(1)
        quantized: Tensor = torch._fake_quantize_learnable_per_tensor_affine(x, self.scale, zero, self.low, self.high, 1.0)
        return quantized


def float_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name)
    return model.train()


def with_layers(name: str, kind: type[EagerQuantizer], images: Tensor) -> nn.Module:
    """Puts quantizers of another kind where ours stand, with our scales."""
    model = stillbit_model(name, images)
    for module in list(model.modules()):
        for child, quantizer in list(module._modules.items()):
            if isinstance(quantizer, sb.Quantizer):
                module._modules[child] = kind(*quantizer.limits, float(quantizer.scale.detach()))
    return model


def stillbit_model(name: str, images: Tensor, *, recompute: bool = True) -> nn.Module:
    model = float_model(name)
    is_transformer = "deit" in name or "vit" in name or "swin" in name
    minmax = sb.RangeConfig("current_minmax")  # a search would take longer than the measurement
    of_cnn = sb.QuantConfig.parse("W4A4", weight_range=minmax, activation_range=minmax)
    config = sb.QuantConfig.for_vit("W2A2") if is_transformer else of_cnn
    config = dataclasses.replace(config, recompute=recompute)
    sb.prepare(model, config, example=images[:1])
    sb.calibrate(model, [(images,)])
    return model.train()


def contenders(name: str, images: Tensor) -> dict[str, Callable[[], Contender]]:
    def plain(build: Callable[[], nn.Module]) -> Contender:
        model = build()
        return Contender(model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))

    def treated(attach: Callable[[nn.Module, torch.optim.Optimizer], Any]) -> Contender:
        made = plain(lambda: stillbit_model(name, images))
        attach(made.model, made.optimizer)
        return made

    found = {
        "float": lambda: plain(lambda: float_model(name)),
        "stillbit": lambda: plain(lambda: stillbit_model(name, images)),
        "stillbit, values saved": lambda: plain(lambda: stillbit_model(name, images, recompute=False)),
        "stillbit + freezing": lambda: treated(lambda model, optimizer: sb.Freezing(model, threshold=0.1).attach(optimizer)),
        "stillbit + dampening": lambda: treated(lambda model, optimizer: sb.Dampening(model, weight=0.1).attach(optimizer)),
    }
    if "mobilenet" in name:
        found |= {
            "eager chain": lambda: plain(lambda: with_layers(name, EagerQuantizer, images)),
            "torch learnable": lambda: plain(lambda: with_layers(name, TorchQuantizer, images)),
        }
    return found


def saved_bytes(contender: Contender, images: Tensor, labels: Tensor) -> int:
    """Counts the storages that a forward pass keeps for its backward pass, each once; parameters apart."""
    own = {parameter.untyped_storage().data_ptr() for parameter in contender.model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(contender.model(images), labels)
    del loss
    return sum(seen.values())


def measure(made: dict[str, Contender], images: Tensor, labels: Tensor, steps: int) -> dict[str, list[float]]:
    """Gives the milliseconds of every step."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for round_number in range(-2, steps):
        for name, contender in made.items():
            begin = time.perf_counter()
            contender.step(images, labels)
            if round_number >= 0:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    images, labels = torch.randn(settings.batch, 3, 224, 224), torch.arange(settings.batch)
    wanted = settings.only.split(",") if settings.only else None
    made = {name: build() for name, build in contenders(settings.model, images).items() if wanted is None or name in wanted}
    kept = {name: saved_bytes(contender, images, labels) for name, contender in made.items()}
    times = measure(made, images, labels, settings.steps)
    rows = {}
    for name, own in times.items():
        ratios = [mine / base for mine, base in zip(own, times["float"], strict=True)]
        rows[name] = {
            "median_ms": round(statistics.median(own), 1),
            "ratio_to_float": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "saved_mb": round(kept[name] / 1e6, 1),
            "saved_to_float": round(kept[name] / kept["float"], 3),
        }
        sys.stdout.write(f"{name:22} {json.dumps(rows[name])}\n")
    facts = {
        "command": " ".join(["python", "benchmarks/step.py", *sys.argv[1:]]),
        "hardware": f"{platform.machine()}, {settings.threads} threads",
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "batch": settings.batch,
        "steps": settings.steps,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"step_{settings.model}_{datetime.date.today().isoformat()}.json"
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
