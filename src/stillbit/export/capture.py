"""From a trained model to a program: PyTorch's operations on tensors, quantizers resolved to codes and grids.

Everything that leaves PyTorch starts here. A copy of the model is traced by `torch.export`; each weight quantizer becomes a constant
of integer codes with its scale, each activation quantizer one operation with its limits. What does not depend on the input (query-key
products, masks, position biases) is computed once. The model itself is not touched.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.errors import ExportError
from stillbit.export import ops as _ops  # noqa: F401 - registers the operations
from stillbit.export.program import Program
from stillbit.export.simplify import simplify
from stillbit.numerics.grid import Grid
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import WeightSite, weight_sites


def capture(model: nn.Module, example: Tensor) -> Program:
    """Return what a prepared and trained model computes in evaluation, as a program of its own.

    Args:
        model: A prepared model with ranges, in float32; stays as it is.
        example: An input of the model, e.g. zeros of shape (1, 3, 224, 224). Its first axis is the batch and stays free.

    Returns:
        The program: equal to the model's output, bit for bit.

    Raises:
        ExportError: If the model has no quantizers, one without a range, another dtype, or cannot be traced.
    """
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
    _check(model, quantizers, example)
    copied = copy.deepcopy(model).eval().cpu()
    with torch.no_grad():
        sites = {site.quantizer: site for site in weight_sites(copied)}
        for name in quantizers:
            quantizer = copied.get_submodule(name)
            assert isinstance(quantizer, Quantizer)
            _resolve(quantizer, name, sites.get(quantizer))
        batch = example.detach().cpu()[:1].expand(2, *example.shape[1:]).contiguous()  # one alone would be taken for fixed
        exported = trace(copied, batch)
        return simplify(exported, tuple(example.shape[1:]))


def _check(model: nn.Module, quantizers: dict[str, Quantizer], example: Tensor) -> None:
    if not quantizers:
        raise ExportError(f"{type(model).__name__} has no quantizers; allowed: a model that prepare has quantized")
    for name, quantizer in quantizers.items():
        if not quantizer.is_calibrated:
            raise ExportError(f"quantizer {name} has no range yet; run calibrate, or load a trained state, before export")
    floating = {tensor.dtype for tensor in [*model.parameters(), *model.buffers()] if tensor.is_floating_point()}
    if floating != {torch.float32}:
        given = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in floating))
        raise ExportError(f"{type(model).__name__} holds {given}; allowed: a model in float32 (model.float())")
    if example.dim() < 2:
        raise ExportError(f"example has shape {tuple(example.shape)}; allowed: a batch of inputs, e.g. (1, 3, 224, 224)")


def _resolve(quantizer: Quantizer, name: str, site: WeightSite | None) -> None:
    """Make a quantizer of the copy give what it gives from constants alone."""
    if quantizer.bypass:
        return
    if site is not None:
        latent = site.latent()
        grid = quantizer.grid(latent)
        codes = quantizer.code(latent)
        if bool(((codes < grid.low) | (codes > grid.high)).any()):
            given = f"codes {int(codes.min())} to {int(codes.max())} on a grid of {grid.low} to {grid.high}"
            cause = "its pins are damaged, as by averaging buffers; allowed: an average of parameters alone"
            raise ExportError(f"quantizer {name}: {given}: {cause}")
        quantizer.register_buffer("codes", codes.to(torch.int8 if grid.low < 0 else torch.uint8))
    elif not quantizer.grid_follows_latent:
        grid = quantizer.grid(torch.zeros(()))
    else:
        raise ExportError(f"quantizer {name} ({type(quantizer).__name__}) takes its scale from each batch; allowed: for weights only")
    quantizer.register_buffer("grid_scale", grid.scale.clone())
    zero_point = grid.zero_point
    quantizer.register_buffer("grid_zero_point", zero_point.clone() if isinstance(zero_point, Tensor) else None)
    # An attribute of this object comes before the method of its class; a copy is changed, not the user's model.
    quantizer.forward = _weight_values(quantizer, name, grid) if site is not None else _activation_values(quantizer, name, grid)  # type: ignore[method-assign]


def _weight_values(quantizer: Quantizer, name: str, grid: Grid) -> Callable[..., Tensor]:
    def forward(_latent: Tensor) -> Tensor:
        values: Tensor = torch.ops.stillbit.dequantize(
            quantizer.codes, quantizer.grid_scale, quantizer.grid_zero_point, grid.shift, quantizer.bits, name
        )
        return values

    return forward


def _activation_values(quantizer: Quantizer, name: str, grid: Grid) -> Callable[..., Tensor]:
    def forward(x: Tensor, before: Tensor | None = None, after: Tensor | None = None) -> Tensor:
        clip = None if quantizer.prologue.clip is None else list(quantizer.prologue.clip)
        if before is not None:
            x, clip = quantizer.latent(x, before), None
        values: Tensor = torch.ops.stillbit.fake_quantize(
            x, quantizer.grid_scale, quantizer.grid_zero_point, grid.shift, grid.low, grid.high, clip, name
        )
        return values if after is None else values + after

    return forward


def trace(model: nn.Module, batch: Tensor) -> Any:
    """Trace a model in evaluation on a batch of two or more; the batch's size stays free."""
    try:
        return torch.export.export(model, (batch,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    except Exception as error:  # tracing meets whatever a model's own code does
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ExportError(f"{type(model).__name__} cannot be traced by torch.export: {type(error).__name__}: {first}") from error
