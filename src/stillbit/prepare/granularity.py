"""How many scales an activation has, and of what shape, by the shape of the tensor that the example brought there."""

from torch import nn

from stillbit.modules.shift import Shifted
from stillbit.prepare.policy import QuantConfig


def layer_input_quantizer(layer: nn.Module, shape: tuple[int, ...], bits: int, config: QuantConfig, *, signed: bool | None) -> nn.Module:
    """Make the quantizer of a layer's input."""
    quantizer = config.activation_quantizer(bits, input_scale_shape(layer, shape, config), signed=signed)
    if not config.learned_shifts:
        return quantizer
    shift = _shift_shape(layer, shape, config)
    return Shifted(quantizer, before=shift, after=shift)


def input_scale_shape(layer: nn.Module, shape: tuple[int, ...], config: QuantConfig) -> tuple[int, ...]:
    """Return the shape of the scale of a layer's input (docs/spec/vit.md, 3.2).

    >>> from stillbit.prepare.policy import QuantConfig
    >>> input_scale_shape(nn.Linear(192, 768), (1, 197, 192), QuantConfig(activation_scales="token"))
    (1, 197, 1)
    >>> input_scale_shape(nn.Conv2d(3, 192, 16), (1, 3, 224, 224), QuantConfig(activation_scales="token"))
    (1, 3, 1, 1)
    >>> input_scale_shape(nn.Linear(192, 1000), (1, 192), QuantConfig(activation_scales="token"))
    (1,)
    """
    if config.activation_scales == "tensor" or len(shape) < 3:
        return (1,)
    axis = 1 if _is_convolution(layer) else len(shape) - 2
    return tuple(size if place == axis else 1 for place, size in enumerate(shape))


def _shift_shape(layer: nn.Module, shape: tuple[int, ...], config: QuantConfig) -> tuple[int, ...]:
    """Return one bias per channel; to the image, under scales that are bound to its size anyway, one per pixel, as published."""
    if not _is_convolution(layer):
        return shape[-1:]
    return shape[2:] if config.activation_scales == "token" else (shape[1], *(1,) * (len(shape) - 2))


def _is_convolution(layer: nn.Module) -> bool:
    return hasattr(layer, "kernel_size")
