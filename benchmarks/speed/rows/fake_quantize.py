"""Fake quantization, forward and backward, against copying the same bytes.

Per element of 4 bytes, the forward pass reads 4 bytes and writes 4; the backward pass reads 8 (gradient, latent) and writes 4. Copies of 1
and of 1.5 tensors move the same 20 bytes. Both allocate their results each time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

import stillbit as sb
from benchmarks.speed.baseline import eager_chain, torch_learnable
from benchmarks.speed.findings import Figure, Findings
from benchmarks.speed.pairs import Run, race
from benchmarks.speed.settings import Settings

LOW, HIGH, SCALE = -8, 7, 0.2
Pass = Callable[[Tensor, Tensor], Tensor]


def measure(settings: Settings, *, as_bandwidth: bool = False) -> Findings:
    """Measure ours, the eager chain, and torch's own operator."""
    dtype = torch.bfloat16 if as_bandwidth else torch.float32
    x, upstream = (torch.randn(settings.elements, device=settings.device, dtype=dtype) for _ in range(2))
    runs: dict[str, Pass] = {
        "stillbit": lambda x, scale: sb.fake_quantize(x, sb.Grid(scale, 0, 0.0, LOW, HIGH)),
        "eager chain": lambda x, scale: eager_chain(x, scale, LOW, HIGH),
    }
    if not as_bandwidth:  # torch's operator takes float32 only
        runs["torch learnable"] = lambda x, scale: torch_learnable(x, scale, LOW, HIGH)
    half_more = torch.cat([x, x[: len(x) // 2]])

    def copies() -> None:
        x.clone()
        half_more.clone()

    contenders: dict[str, tuple[Run, Run]] = {name: (both_passes(run, x, upstream), copies) for name, run in runs.items()}
    contenders["stillbit, forward alone"] = (lambda: runs["stillbit"](x, torch.tensor([SCALE], device=x.device)), lambda: x.clone())
    times = race(contenders, rounds=settings.rounds, device=settings.device)
    found = Findings(sizes={"elements": settings.elements, "dtype": str(dtype), "device": settings.device})
    for name, pairs in times.items():
        ours = name.startswith("stillbit")
        target = (0.85 if as_bandwidth else 1.2) if name == "stillbit" else None
        if as_bandwidth:
            shares = [1 / ratio for ratio in pairs.ratios()]
            found.figures.append(Figure.of(f"{name}: share of copy bandwidth", shares, target=target, higher_is_better=True, ours=ours))
        else:
            found.figures.append(Figure.of(f"{name}: time / copy", pairs.ratios(), target=target, ours=ours))
        found.milliseconds[name] = pairs.own
        found.milliseconds[f"{name}: copy beside it"] = pairs.reference
    return found


def both_passes(function: Pass, x: Tensor, upstream: Tensor) -> Run:
    """Return a function that runs the forward and the backward pass."""
    latent = x.clone().requires_grad_()
    scale = torch.tensor([SCALE], device=x.device, requires_grad=True)

    def run() -> None:
        latent.grad = scale.grad = None
        function(latent, scale).backward(upstream)

    return run
