"""Quantized convolutions, plain and transposed; grouped and depthwise ones are the same layers."""

from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.numerics.fast import values_recomputed
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import ParameterSite, WeightSite


class QuantConv1d(nn.Conv1d):
    """`nn.Conv1d` with quantized input and weight."""

    weight: Parameter
    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the quantized input with the quantized weight."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        with values_recomputed(x, weight):
            output: Tensor = self._conv_forward(x, weight, self.bias)
        return output

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight),)


class QuantConv2d(nn.Conv2d):
    """`nn.Conv2d` with quantized input and weight."""

    weight: Parameter
    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the quantized input with the quantized weight."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        with values_recomputed(x, weight):
            output: Tensor = self._conv_forward(x, weight, self.bias)
        return output

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight),)


class QuantConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with quantized input and weight; its weight counts output channels along axis 1."""

    weight: Parameter
    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of the quantized input with the quantized weight."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        padding, extra = _paddings(self, x, output_size)
        with values_recomputed(x, weight):
            return F.conv_transpose1d(x, weight, self.bias, self.stride, padding, extra, self.groups, self.dilation)

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight, output_axis=1),)


class QuantConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with quantized input and weight; its weight counts output channels along axis 1."""

    weight: Parameter
    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of the quantized input with the quantized weight."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        padding, extra = _paddings(self, x, output_size)
        with values_recomputed(x, weight):
            return F.conv_transpose2d(x, weight, self.bias, self.stride, padding, extra, self.groups, self.dilation)

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight, output_axis=1),)


def _paddings(
    layer: nn.ConvTranspose1d | nn.ConvTranspose2d, x: Tensor, output_size: list[int] | None
) -> tuple[tuple[int, ...], list[int]]:
    """Return the layer's padding, and the extra output padding that `output_size` asks for."""
    assert not isinstance(layer.padding, str), "PyTorch's transposed convolutions take no padding by name"
    kernel, stride, dilation = list(layer.kernel_size), list(layer.stride), list(layer.dilation)
    extra = layer._output_padding(x, output_size, stride, list(layer.padding), kernel, len(kernel), dilation)
    return layer.padding, extra
