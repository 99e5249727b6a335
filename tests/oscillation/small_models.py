"""Small quantized models whose weights oscillate readily."""

import torch
from torch import Tensor, nn

from stillbit.modules import QuantConv2d, QuantLinear, adopt
from stillbit.quantizers import LSQ


def calibrated(bits: int, scale: float, scale_shape: tuple[int, ...] = (1,), *, signed: bool = True, learn: bool = True) -> LSQ:
    """A quantizer with a given scale."""
    quantizer = LSQ(bits, scale_shape)
    quantizer.mark_calibrated(signed=signed)
    with torch.no_grad():
        quantizer.scale.fill_(scale)
    quantizer.scale.requires_grad_(learn)
    return quantizer


def linear(weight: Tensor, quantizer: LSQ) -> QuantLinear:
    """A quantized linear layer around a weight."""
    outputs, inputs = weight.shape
    layer = adopt(QuantLinear, nn.Linear(inputs, outputs, bias=False), weight_quantizer=quantizer, input_quantizer=None)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def one_weight(weight: float = 0.2, *, bits: int = 3) -> nn.Sequential:
    """A model of one weight on a fixed grid of scale 0.2; its codes change at 0.1, 0.3, 0.5."""
    return nn.Sequential(linear(torch.tensor([[weight]]), calibrated(bits, 0.2, learn=False)))


def place(model: nn.Module, *weights: float) -> None:
    """Set the weights of a model's first layer."""
    layer = model[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).reshape(layer.weight.shape))


def network() -> nn.Sequential:
    """A convolution at 3 bits, one scale per channel, and a linear layer at 8 bits; its scales are learned."""
    generator = torch.Generator().manual_seed(1)
    convolution = adopt(
        QuantConv2d, nn.Conv2d(2, 4, 3, bias=False), weight_quantizer=calibrated(3, 0.1, (4, 1, 1, 1)), input_quantizer=None
    )
    with torch.no_grad():
        convolution.weight.copy_(0.15 * torch.randn(4, 2, 3, 3, generator=generator))
    last = linear(0.3 * torch.randn(3, 16, generator=generator), calibrated(8, 0.01))
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), last)


def sgd(model: nn.Module) -> torch.optim.SGD:
    """Move weights fast and scales slowly."""
    scales = [parameter for name, parameter in model.named_parameters() if name.endswith("scale")]
    weights = [parameter for name, parameter in model.named_parameters() if not name.endswith("scale")]
    return torch.optim.SGD([{"params": weights, "lr": 0.002}, {"params": scales, "lr": 1e-6}], momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Train on noise that is a function of the step: large gradients, so that many codes flip."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model.train()
        (model(torch.randn(8, 2, 4, 4, generator=generator)) - torch.randn(8, 3, generator=generator)).square().sum().backward()
        optimizer.step()
