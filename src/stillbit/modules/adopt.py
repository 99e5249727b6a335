"""Module swap: a quantized layer takes over a float layer as it stands."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def adopt(kind: type[Layer], layer: nn.Module, **children: nn.Module | None) -> Layer:
    """Make a quantized layer of a float one: the same Parameter objects, settings, hooks and training mode.

    Args:
        kind: The quantized class, a subclass of the layer's own.
        layer: The float layer; it shares its parameters with the new one and should be dropped.
        children: What the quantized layer has beyond the float one: its quantizers, by name. None leaves a tensor as it is.

    Returns:
        The quantized layer.
    """
    assert issubclass(kind, type(layer)), f"{kind.__name__} cannot adopt a {type(layer).__name__}"
    quantized = kind.__new__(kind)
    quantized.__dict__.update(layer.__dict__)
    quantized._modules = dict(layer._modules)
    quantized._parameters = dict(layer._parameters)
    for name, child in children.items():
        quantized.add_module(name, (nn.Identity() if child is None else child).train(layer.training))
    return quantized


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, under every parent that the other has."""
    for parent in list(model.modules()):
        for child, module in parent._modules.items():
            if module is old:
                parent._modules[child] = new
