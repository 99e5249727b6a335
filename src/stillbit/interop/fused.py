"""The CNN code's names of layers (arXiv 2203.11086): a layer, its batch norm and its activation have one (docs/spec/cnn.md, 7.1).

It scans Sequentials, and what it joins takes one place there:

| float network                                  | published, quantized |
|------------------------------------------------|----------------------|
| `conv.0` conv, `conv.1` norm, `conv.2` ReLU6   | `conv.0`             |
| `conv.3` conv, `conv.4` norm                   | `conv.1`             |
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.GELU, nn.PReLU, nn.Hardswish, nn.Hardsigmoid)

_Child = tuple[str, nn.Module]


@dataclass(frozen=True)
class FusedLayer:
    """A layer by its names.

    Attributes:
        published: What the CNN code calls it, norm and activation included.
        layer: Our convolution or linear layer.
        norm: Our batch norm behind it; None without.
    """

    published: str
    layer: str
    norm: str | None


def fused_layers(model: nn.Module) -> list[FusedLayer]:
    """Return the layers of a network by both names, in module order.

    timm's MobileNetV2 has other module names than the published one, and the same layers in the same order.
    """
    timm = hasattr(model, "conv_stem") and hasattr(model, "conv_head") and isinstance(getattr(model, "blocks", None), nn.Sequential)
    return list(_of_timm(model) if timm else _scan(model, "", ""))


def _scan(module: nn.Module, ours: str, published: str) -> Iterator[FusedLayer]:
    children = list(module.named_children())
    if isinstance(module, nn.Sequential):
        places = _places(_spliced(children))
        named = [(str(index), *place) for index, place in enumerate(places)]
    else:
        named = [(name, (name, child), None) for name, child in children]
    for name, (path, child), norm in named:
        theirs, full = _join(published, name), _join(ours, path)
        if _is_layer(child):
            yield FusedLayer(theirs, full, None if norm is None else _join(ours, norm))
        else:
            yield from _scan(child, full, theirs)


def _spliced(children: list[_Child]) -> list[_Child]:
    """Put the members of inner Sequentials next to bare layers: torchvision groups what the published blocks list flatly."""
    if not any(_is_layer(child) for _, child in children):
        return children
    flat: list[_Child] = []
    for name, child in children:
        inner = list(child.named_children()) if isinstance(child, nn.Sequential) else []
        flat += [(f"{name}.{path}", member) for path, member in inner] or [(name, child)]
    return flat


def _places(children: list[_Child]) -> Iterator[tuple[_Child, str | None]]:
    """Join a layer with the norm behind it, and these with the activation behind them."""
    index = 0
    while index < len(children):
        head, norm = children[index], None
        index += 1
        if _is_layer(head[1]):
            if index < len(children) and isinstance(children[index][1], _BatchNorm):
                norm = children[index][0]
                index += 1
            if index < len(children) and isinstance(children[index][1], _ACTIVATIONS):
                index += 1
        yield head, norm


def _of_timm(model: nn.Module) -> Iterator[FusedLayer]:
    yield FusedLayer("features.0.0", "conv_stem", "bn1")
    number = 0
    for stage, blocks in model.get_submodule("blocks").named_children():
        for place, block in blocks.named_children():
            number += 1
            inner = f"blocks.{stage}.{place}"
            layers = [name for name, child in block.named_children() if _is_layer(child)]
            norms = [name for name, child in block.named_children() if isinstance(child, _BatchNorm)]
            for index, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
                yield FusedLayer(f"features.{number}.conv.{index}", f"{inner}.{layer}", f"{inner}.{norm}")
    yield FusedLayer(f"features.{number + 1}.0", "conv_head", "bn2")
    yield FusedLayer("classifier.1", "classifier", None)


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd | nn.Linear)


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)
