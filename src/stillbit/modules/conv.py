"""Quantized convolutions, plain and transposed; grouped and depthwise ones are the same layers."""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import ParameterSite, WeightSite


class QuantConv1d(nn.Conv1d):
    """`nn.Conv1d` with quantized input and weight."""

    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Gives the convolution of the quantized input with the quantized weight."""
        return self._conv_forward(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Gives the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight),)


class QuantConv2d(nn.Conv2d):
    """`nn.Conv2d` with quantized input and weight."""

    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Gives the convolution of the quantized input with the quantized weight."""
        return self._conv_forward(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Gives the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight),)


class QuantConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with quantized input and weight; its weight counts output channels along axis 1."""

    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Gives the transposed convolution of the quantized input with the quantized weight."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        padding = _output_padding(self, x, output_size)
        return F.conv_transpose1d(x, weight, self.bias, self.stride, self.padding, padding, self.groups, self.dilation)

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Gives the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight, output_axis=1),)


class QuantConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with quantized input and weight; its weight counts output channels along axis 1."""

    input_quantizer: nn.Module
    weight_quantizer: Quantizer

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Gives the transposed convolution of the quantized input with the quantized weight."""
        x, weight = self.input_quantizer(x), self.weight_quantizer(self.weight)
        padding = _output_padding(self, x, output_size)
        return F.conv_transpose2d(x, weight, self.bias, self.stride, self.padding, padding, self.groups, self.dilation)

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Gives the weight's site."""
        return (ParameterSite(name, self.weight_quantizer, self.weight, output_axis=1),)


def _output_padding(layer: nn.ConvTranspose1d | nn.ConvTranspose2d, x: Tensor, output_size: list[int] | None) -> list[int]:
    spatial = len(layer.kernel_size)
    return layer._output_padding(  # type: ignore[no-any-return]
        x, output_size, layer.stride, layer.padding, layer.kernel_size, spatial, layer.dilation
    )
