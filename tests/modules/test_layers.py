"""A quantized layer computes what its float layer does with the values of input and weight."""

from collections.abc import Callable

import pytest
import torch
from timm.layers import Conv2dSame
from timm.layers import Linear as TimmLinear
from torch import Tensor, nn

from stillbit.modules import QuantConv1d, QuantConv2d, QuantConvTranspose1d, QuantConvTranspose2d, QuantLinear, adopt
from stillbit.modules.timm_layers import QuantConv2dSame, QuantTimmLinear
from stillbit.quantizers import LSQ

SIGNAL, IMAGE = (2, 4, 9), (2, 4, 9, 8)

CASES = {
    "linear": (QuantLinear, lambda: nn.Linear(8, 3), IMAGE),
    "linear-no_bias": (QuantLinear, lambda: nn.Linear(8, 3, bias=False), (2, 8)),
    "timm_linear": (QuantTimmLinear, lambda: TimmLinear(8, 3), (2, 8)),
    "conv1d": (QuantConv1d, lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), SIGNAL),
    "conv2d": (QuantConv2d, lambda: nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), dilation=2), IMAGE),
    "conv2d-grouped": (QuantConv2d, lambda: nn.Conv2d(4, 6, 3, groups=2), IMAGE),
    "conv2d-depthwise": (QuantConv2d, lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), IMAGE),
    "conv2d-reflect": (QuantConv2d, lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), IMAGE),
    "conv2d-same": (QuantConv2d, lambda: nn.Conv2d(4, 6, 3, padding="same"), IMAGE),
    "timm_same": (QuantConv2dSame, lambda: Conv2dSame(4, 6, 3, stride=2), IMAGE),
    "timm_same-depthwise": (QuantConv2dSame, lambda: Conv2dSame(4, 4, 5, stride=2, groups=4, bias=False), IMAGE),
    "transposed1d": (QuantConvTranspose1d, lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), SIGNAL),
    "transposed2d": (QuantConvTranspose2d, lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, dilation=2), IMAGE),
}
parametrized = pytest.mark.parametrize(("kind", "build", "shape"), CASES.values(), ids=CASES.keys())


def quantizer(x: Tensor, bits: int) -> LSQ:
    made = LSQ(bits)
    made.set_range(x.min()[None], x.max()[None])
    return made


def quantized(kind: type[nn.Module], layer: nn.Module, x: Tensor) -> nn.Module:
    return adopt(kind, layer, input_quantizer=quantizer(x, 4), weight_quantizer=quantizer(layer.weight.detach(), 3))


@parametrized
def test_computes_with_quantized_input_and_weight(kind: type[nn.Module], build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    layer, x = build(), torch.randn(shape)
    ours = quantized(kind, layer, x)
    output = ours(x)
    with torch.no_grad():
        assert not torch.equal(layer(x), output)
        layer.weight.copy_(ours.weight_quantizer(layer.weight))
        assert torch.equal(layer(ours.input_quantizer(x)), output)


@parametrized
def test_without_quantizers_it_is_the_float_layer(kind: type[nn.Module], build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    layer, x = build(), torch.randn(shape)
    ours = adopt(kind, layer, input_quantizer=None, weight_quantizer=LSQ(3))
    ours.weight_quantizer.bypass = True
    assert torch.equal(ours(x), layer(x))
    assert ours.weight is layer.weight


@parametrized
def test_its_site_is_the_weight(kind: type[nn.Module], build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    ours = quantized(kind, build(), torch.randn(shape))
    (site,) = ours.weight_sites("name")
    assert site.name == "name"
    assert site.latent() is ours.weight
    assert site.quantizer is ours.weight_quantizer
    assert site.output_axis == (1 if "Transpose" in kind.__name__ else 0)


@pytest.mark.parametrize("size", [17, 18])
def test_transposed_convolution_takes_an_output_size(size: int) -> None:
    signal, layer = torch.randn(SIGNAL), nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1)
    ours = quantized(QuantConvTranspose1d, layer, signal)
    assert ours(signal, output_size=[size]).shape == (2, 6, size)
    x, layer = torch.randn(IMAGE), nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)
    ours = quantized(QuantConvTranspose2d, layer, x)
    assert ours(x, output_size=[size, 16]).shape == (2, 6, size, 16)


def test_adoption_keeps_settings_hooks_and_other_children() -> None:
    layer, calls = nn.Conv2d(4, 4, 3, padding=1), []
    layer.extra = nn.ReLU()
    layer.note = "mine"
    layer.register_forward_hook(lambda *_: calls.append(True))
    ours = quantized(QuantConv2d, layer.eval(), torch.randn(IMAGE))
    ours(torch.randn(IMAGE))
    assert (ours.note, ours.padding, ours.training, calls) == ("mine", (1, 1), False, [True])
    assert list(dict(ours.named_children())) == ["extra", "input_quantizer", "weight_quantizer"]
    assert list(dict(layer.named_children())) == ["extra"]
