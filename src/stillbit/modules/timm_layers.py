"""The quantized forms of timm's own layers. Imported only where timm is: `import stillbit` does not load timm."""

from timm.layers import Linear
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.numerics.fast import values_recomputed
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import ParameterSite, WeightSite


class QuantConv2dSame(Conv2dSame):  # type: ignore[misc]
    """timm's `Conv2dSame` (TensorFlow's padding) with quantized input and weight."""

    weight: Parameter
    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the quantized input, padded to keep its size, with the quantized weight."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        with values_recomputed(x, weight):
            output: Tensor = conv2d_same(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return output

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight),)


class QuantTimmLinear(Linear):  # type: ignore[misc]
    """timm's `Linear` (`nn.Linear` but in TorchScript) with quantized input and weight."""

    weight: Parameter
    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Return `quantized(x) @ quantized(weight).T + bias`."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        with values_recomputed(x, weight):
            return F.linear(x, weight, self.bias)

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight),)
