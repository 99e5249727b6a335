"""What is measured of a model, without changing it: how codes are used, and how old the statistics of batch norms are."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.numerics.grid import code
from stillbit.numerics.limits import SCALE_FLOOR
from stillbit.prepare.batchnorm import batchnorm_divergences, batchnorm_statistics, estimate_batchnorm
from stillbit.prepare.example import run_example, watched
from stillbit.quantizers import Quantizer, WeightSite


@dataclass(frozen=True)
class Codes:
    """How the codes of a tensor are used.

    Attributes:
        bits: Width.
        used: Number of codes that occur.
        commonest: The most frequent code.
        share: Of elements that have it.
        floored: Whether a scale is at its floor.
        clipped: Share of those that are not zero that lie beyond the grid, more than half a step.
        zeros: Share of elements that are exactly zero.
        count: Number of elements.
    """

    bits: int
    used: int
    commonest: int
    share: float
    floored: bool
    clipped: float
    zeros: float
    count: int


@dataclass(frozen=True)
class Seen:
    """What the example brought to a quantizer.

    Attributes:
        calls: How often it was called.
        codes: Of its first call.
        shape: Of the tensor in its first call.
    """

    calls: int
    codes: Codes
    shape: tuple[int, ...]


@torch.no_grad()
def use_of_codes(quantizer: Quantizer, latent: Tensor) -> Codes:
    """Count a tensor's codes."""
    grid = quantizer.grid(latent)
    codes = code(latent, grid, quantizer.pins)
    counts = torch.bincount((codes.flatten() - grid.low).nan_to_num().long().clamp(min=0))
    whole = latent / grid.scale - grid.shift + grid.zero_point
    zeros = int((latent == 0).sum())
    clipped = (whole < grid.low - 0.5) | (whole > grid.high + 0.5)
    return Codes(
        bits=quantizer.bits,
        used=int((counts > 0).sum()),
        commonest=int(counts.argmax()) + grid.low,
        share=float(counts.max()) / latent.numel(),
        floored=bool((grid.scale <= SCALE_FLOOR).any()),
        clipped=int(clipped.sum()) / max(latent.numel() - zeros, 1),
        zeros=zeros / latent.numel(),
        count=latent.numel(),
    )


def codes_of_weights(site: WeightSite) -> Codes:
    """Count the codes of a quantized weight."""
    return use_of_codes(site.quantizer, site.latent().detach())


def watch_example(model: nn.Module, quantizers: dict[str, Quantizer], example: Any) -> dict[str, Seen]:
    """Run an example in evaluation and return what each quantizer saw."""
    seen: dict[str, Seen] = {}

    def note(name: str, inputs: tuple[Any, ...]) -> None:
        before = seen.get(name)
        if before is not None:
            seen[name] = Seen(before.calls + 1, before.codes, before.shape)
            return
        seen[name] = Seen(1, use_of_codes(quantizers[name], quantizers[name].latent(*inputs[:2]).detach()), tuple(inputs[0].shape))

    with watched(dict(quantizers), note):
        run_example(model, example)
    return seen


def divergences(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Return for each batch norm the KL divergence of its running statistics from those of the batches, in nats, mean over channels."""
    before = batchnorm_statistics(model)
    loader = [(batch,) for batch in batches]
    return batchnorm_divergences(before, estimate_batchnorm(model, loader, batches=len(loader))) if before else {}
