"""Module swap: a quantized layer takes over a float layer as it stands."""

from typing import TypeVar

from torch import nn

from stillbit.quantizers.base import Quantizer

Layer = TypeVar("Layer", bound=nn.Module)


def adopt(kind: type[Layer], layer: nn.Module, *, weight_quantizer: Quantizer, input_quantizer: nn.Module | None) -> Layer:
    """Makes a quantized layer of a float one: the same Parameter objects, settings, hooks and training mode.

    Args:
        kind: The quantized class, a subclass of the layer's own.
        layer: The float layer; it shares its parameters with the new one and should be dropped.
        weight_quantizer: Quantizer of `layer.weight`.
        input_quantizer: Quantizer of the layer's input; None leaves it in full precision.

    Returns:
        The quantized layer.
    """
    assert issubclass(kind, type(layer)), f"{kind.__name__} cannot adopt a {type(layer).__name__}"
    quantized = kind.__new__(kind)
    quantized.__dict__.update(layer.__dict__)
    quantized._modules = dict(layer._modules)
    quantized.add_module("input_quantizer", nn.Identity() if input_quantizer is None else input_quantizer)
    quantized.add_module("weight_quantizer", weight_quantizer)
    return quantized
