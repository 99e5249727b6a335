"""Tracking for Brevitas: its layers as sites that a method can watch.

Tracking(watched(model)).attach(optimizer)
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from brevitas.nn.mixin import QuantWeightMixin
from brevitas.quant_tensor import IntQuantTensor
from torch import Tensor, nn
from torch.nn import Parameter

from stillbit.errors import PrepareError
from stillbit.integrations.watching import Watched


def watched(model: nn.Module) -> Watched:
    """Return a model as `Tracking` sees it: every Brevitas layer whose weight has an integer grid of at most 8 bits.

    Each step costs one more quantization of each weight, by Brevitas itself.

    Args:
        model: A model with Brevitas layers.

    Raises:
        PrepareError: If there is none, or one that does not round half to even, learns its width, or has scales of groups.
    """
    return Watched(model, _reader, "Brevitas")


@final
@dataclass(frozen=True)
class _Reader:
    """A layer with a quantized weight."""

    layer: Any
    bits: int
    limits: tuple[int, int]

    @property
    def parameter(self) -> Parameter:
        """The weight."""
        weight = self.layer.weight
        assert isinstance(weight, Parameter)
        return weight

    @property
    def output_axis(self) -> int:
        """1 of transposed convolutions, else 0."""
        return int(self.layer.output_channel_dim)

    def position(self) -> Tensor:
        """Return weight / scale + zero point, which Brevitas rounds."""
        quantized = self.layer.quant_weight()
        position: Tensor = self.parameter / quantized.scale + quantized.zero_point
        return position

    def offset(self) -> None:
        """Nothing: the zero point is in the position."""
        return


@torch.no_grad()
def _reader(name: str, layer: nn.Module) -> _Reader | None:
    if not isinstance(layer, QuantWeightMixin) or not layer.weight_quant.is_quant_enabled:
        return None
    proxy, quantized = layer.weight_quant, layer.quant_weight()
    if proxy.is_groupwise:
        raise PrepareError(f"layer {name}: Brevitas gives it scales of groups; allowed: one scale per tensor or per channel")
    if not isinstance(quantized, IntQuantTensor) or float(quantized.bit_width) > 8.0:
        return None
    if str(proxy.rounding_mode).upper() != "ROUND":
        raise PrepareError(f"layer {name}: Brevitas rounds it by {proxy.rounding_mode}; allowed: ROUND")
    if any(parameter.requires_grad for owner, parameter in proxy.named_parameters() if "bit_width" in owner):
        raise PrepareError(f"layer {name}: Brevitas learns its width; allowed: a fixed one")
    bits, narrow = int(quantized.bit_width), bool(proxy.is_narrow_range)
    limits = (narrow - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if quantized.signed else (0, 2**bits - 1 - narrow)
    return _Reader(layer, bits, limits)
