"""The quantized linear layer."""

from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.numerics.fast import values_recomputed
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import ParameterSite, WeightSite


class QuantLinear(nn.Linear):
    """`nn.Linear` with quantized input and weight."""

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
