"""The quantized form of timm's same-padding convolution. Imported only where timm is: `import stillbit` does not load timm."""

from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from torch import Tensor, nn

from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import ParameterSite, WeightSite


class QuantConv2dSame(Conv2dSame):  # type: ignore[misc]
    """timm's `Conv2dSame` (TensorFlow's padding) with quantized input and weight."""

    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Gives the convolution of the quantized input, padded to keep its size, with the quantized weight."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        output: Tensor = conv2d_same(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return output

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Gives the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight),)
