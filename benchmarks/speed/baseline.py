"""The baselines: a straightforward eager implementation of the CNN specification's LSQ, and torch's own learnable fake-quantize."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.speed.networks import Codes, LayerJob


class EagerQuantizer(nn.Module):
    """LSQ per tensor as a chain of eager operations; `detach` makes the rounding straight-through, and autograd does the rest."""

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        self.low, self.high = codes.low, codes.high
        self.scale = nn.Parameter(torch.tensor([codes.scale]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of the codes of `x`."""
        return eager_chain(x, self.scale, self.low, self.high)


class TorchQuantizer(EagerQuantizer):
    """LSQ per tensor by torch's own operator."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of the codes of `x`."""
        return torch_learnable(x, self.scale, self.low, self.high)


def eager_chain(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Return the values of the codes of `x`, one operation after the other."""
    position = x / scale
    rounded = position + (position.round() - position).detach()
    return rounded.clamp(low, high) * scale


def torch_learnable(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Return the values of the codes of `x`, by one operator of torch."""
    zero_point = torch.zeros(1, device=x.device)
    values: Tensor = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, low, high, 1.0)
    return values


class QuantizedLayer(nn.Module):
    """A convolution or linear layer of the quantized input with the quantized weight."""

    def __init__(self, layer: nn.Module, job: LayerJob, kind: type[EagerQuantizer]) -> None:
        super().__init__()
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        self.layer, self.of_weight = layer, kind(job.weight)
        self.of_input = nn.Identity() if job.input is None else kind(job.input)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        layer, x, weight = self.layer, self.of_input(x), self.of_weight(self.layer.weight)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
