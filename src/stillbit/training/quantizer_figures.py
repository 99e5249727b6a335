"""What is measured of a network's quantizers for its record: facts once, and observations at single moments. Nothing is changed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.oscillation import Method
from stillbit.oscillation.recording import positions_on_codes
from stillbit.prepare.size import code_bytes, float_bytes, packed_bytes
from stillbit.quantizers import Quantizer, WeightSite, weight_sites

_BINS_PER_STEP = 10  # grid points and the boundaries between them then lie in the middle of a bin
_MOST_BINS = 160  # about; wide grids get wider bins


def facts(model: nn.Module) -> dict[str, Any]:
    """Say what does not change while a network is trained."""
    layers = [_layer(site) for site in weight_sites(model)]
    return {
        "layers": layers,
        "activations": [{"name": name, "bits": quantizer.bits} for name, quantizer, _ in _activations(model)],
        "other_bytes": packed_bytes(model) - sum(layer["num_bytes"] for layer in layers),
        "float_bytes": float_bytes(model),
    }


@torch.no_grad()
def observe(model: nn.Module, methods: Sequence[Method]) -> dict[str, Any]:
    """Measure the quantizers of a network; one transfer from its device."""
    sites = weight_sites(model)
    masks: dict[str, dict[str, Tensor]] = {}
    for method in methods:
        for word, by_site in method.masks().items():
            masks.setdefault(word, {}).update(by_site)
    scales = [site.quantizer.grid(site.latent()).scale for site in sites]
    columns = {
        "oscillating": [_share(masks.get("oscillating", {}), site) for site in sites],
        "frozen": [_share(masks.get("frozen", {}), site) for site in sites],
        "scale": [scale.mean() for scale in scales],
        "smallest_scale": [scale.min() for scale in scales],
        "largest_scale": [scale.max() for scale in scales],
        "activation_scale": [quantizer.grid(scale).scale.mean() for _, quantizer, scale in _activations(model)],
    }
    return _numbers(columns, [_histogram(site) for site in sites])


def bins(bits: int, low: int, high: int) -> tuple[float, float, int]:
    """Return the bins of a layer's histogram: from a grid step below the smallest code to one above the largest.

    Args:
        bits: Width of a code.
        low: Smallest code.
        high: Largest code.

    Returns:
        Left edge of the first bin as a position, width in grid units, number.

    Example:
        >>> bins(2, -2, 1)
        (-3.05, 0.1, 51)
    """
    per_step = max(1, min(_BINS_PER_STEP, _MOST_BINS // 2**bits))
    return low - 1 - 0.5 / per_step, 1 / per_step, (high - low + 2) * per_step + 1


def _layer(site: WeightSite) -> dict[str, Any]:
    latent, quantizer = site.latent(), site.quantizer
    low, high = quantizer.limits
    return {
        "name": site.name,
        "quantizer": type(quantizer).__name__,
        "bits": quantizer.bits,
        "low": low,
        "high": high,
        "shift": quantizer.grid(latent).shift,
        "shape": list(latent.shape),
        "num_scales": math.prod(quantizer.scale_shape),
        "num_bytes": code_bytes(site),
    }


def _activations(model: nn.Module) -> Iterator[tuple[str, Quantizer, Tensor]]:
    """Find the quantizers that are no weight's and keep a scale, whose grid then needs no latent; what they keep comes last."""
    of_weights = {id(site.quantizer) for site in weight_sites(model)}
    for name, module in model.named_modules():
        scale = getattr(module, "scale", None)
        if isinstance(module, Quantizer) and id(module) not in of_weights and scale is not None:
            yield name, module, scale


def _share(masks: Mapping[str, Tensor], site: WeightSite) -> Tensor:
    mask = masks.get(site.name)
    if mask is None:
        return torch.full((), torch.nan, device=site.latent().device)
    return mask.sum().double() / mask.numel()


def _histogram(site: WeightSite) -> Tensor:
    """Count a layer's latents in its bins, int64; the outermost bins take what lies beyond."""
    start, width, count = bins(site.quantizer.bits, *site.quantizer.limits)
    places = (positions_on_codes(site) - (start + width / 2)) / width
    places = places.nan_to_num(0.0).round_().clamp_(0, count - 1).long().flatten()
    return torch.zeros(count, dtype=torch.int64, device=places.device).scatter_add_(0, places, torch.ones_like(places))


def _numbers(columns: Mapping[str, list[Tensor]], histograms: list[Tensor]) -> dict[str, Any]:
    single = [tensor.double() for column in columns.values() for tensor in column]
    if not single:
        return {name: [] for name in (*columns, "histograms")}
    numbers = iter(torch.cat([torch.stack(single), *(histogram.double() for histogram in histograms)]).tolist())
    found: dict[str, Any] = {name: [rounded(next(numbers)) for _ in column] for name, column in columns.items()}
    found["histograms"] = [[int(next(numbers)) for _ in range(len(histogram))] for histogram in histograms]
    return found


def rounded(number: float) -> float | None:
    """Return a number with six significant digits."""
    return finite(float(f"{number:.6g}"))


def finite(number: float) -> float | None:
    """Return a number, or None, for JSON's sake, if it is not finite."""
    return number if math.isfinite(number) else None
