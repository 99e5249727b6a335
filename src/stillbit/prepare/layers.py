"""Which float layer becomes which quantized layer: one table of exact types."""

import math
import sys
from dataclasses import dataclass

import torch
from torch import nn

from stillbit.errors import PrepareError
from stillbit.modules import QuantConv1d, QuantConv2d, QuantConvTranspose1d, QuantConvTranspose2d, QuantLinear

_TABLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.Linear: QuantLinear,
}

# Types whose weights multiply activations: in a model to be quantized, one that the table lacks is an error, never a silent float.
_MULTIPLYING = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def register_layer(float_layer: type[nn.Module], quantized_layer: type[nn.Module]) -> None:
    """Teach `prepare` a layer type of yours.

    Args:
        float_layer: The exact type that models use.
        quantized_layer: A subclass of it whose forward applies `self.input_quantizer` and `self.weight_quantizer`, and which has
            `weight_sites` (see `stillbit.modules.QuantLinear`, 20 lines).

    Raises:
        PrepareError: If it is not a subclass, or has no `weight_sites`.
    """
    if not issubclass(quantized_layer, float_layer) or not hasattr(quantized_layer, "weight_sites"):
        raise PrepareError(f"{quantized_layer.__name__} must be a subclass of {float_layer.__name__} with a method weight_sites")
    _TABLE[float_layer] = quantized_layer


def quantized_type(layer: nn.Module) -> type[nn.Module] | None:
    """Return the quantized type of a float layer, or None for a module that has none."""
    if "timm.layers" in sys.modules and type(layer).__module__.startswith("timm."):
        _register_timm()
    return _TABLE.get(type(layer))


def is_unsupported(module: nn.Module) -> bool:
    """Whether the module multiplies activations by weights in a way that no quantized layer covers."""
    return isinstance(module, _MULTIPLYING) and quantized_type(module) is None


def _register_timm() -> None:
    from timm.layers import Conv2dSame, Linear

    from stillbit.modules.timm_layers import QuantConv2dSame, QuantTimmLinear

    _TABLE.setdefault(Conv2dSame, QuantConv2dSame)
    _TABLE.setdefault(Linear, QuantTimmLinear)


@dataclass(frozen=True)
class LayerKind:
    """What the policies ask of a layer.

    Attributes:
        depthwise: One input channel a group.
        output_axis: Axis of the weight that counts output channels.
    """

    depthwise: bool
    output_axis: int


def layer_kind(layer: nn.Module) -> LayerKind:
    """Read a layer's kind off its settings."""
    groups = int(getattr(layer, "groups", 1))
    depthwise = groups > 1 and groups == getattr(layer, "in_channels", 0)
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    return LayerKind(depthwise, 1 if transposed else 0)


def kernel_elements(layer: nn.Module) -> int:
    """Return the number of elements of a layer's kernel over space: 9 for a 3x3 convolution, 1 for a linear layer.

    >>> kernel_elements(nn.Conv2d(8, 8, 3))
    9
    """
    return math.prod(getattr(layer, "kernel_size", ()))


def scale_shape(weight: torch.Tensor, output_axis: int, *, per_channel: bool) -> tuple[int, ...]:
    """Return the shape of a weight's scale.

    >>> scale_shape(torch.empty(64, 3, 7, 7), 0, per_channel=True)
    (64, 1, 1, 1)
    >>> scale_shape(torch.empty(64, 3, 7, 7), 0, per_channel=False)
    (1,)
    """
    if not per_channel:
        return (1,)
    return tuple(size if axis == output_axis else 1 for axis, size in enumerate(weight.shape))
