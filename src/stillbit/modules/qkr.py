"""Query-key reparameterization: the product of query and key weights is quantized, rather than each of them.

Two quantized factors oscillate together and disturb each other through their product; here the product itself,

    S[n, m] = x_n^T M_h x_m,    M_h = W_q,h^T W_k,h        for every head h,

is the latent. Source: "Oscillation-free Quantization for Low-bit Vision Transformers" (ICML 2023, arXiv 2302.02210), section 4.3.

With biases there is one more term that depends on the key m, `b_q^T W_k x_m`; everything else that they add is constant in m and
drops out of the softmax. So `M_h x_m` together with the bias of each key, `c_h x_m` with `c_h = W_k,h^T b_q,h`, is the original
attention exactly.
Deviates from the reference code in: this bias is kept, in full precision (there, all biases of queries and keys are lost, which
`published=True` restores); the learned bias behind the keys' quantizer, which is constant in m, is not created.
"""

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it

from stillbit.modules.attention import AttentionProducts, AttentionSetting
from stillbit.numerics.fast import values_recomputed
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.product import ProductSite, query_key_products
from stillbit.quantizers.site import SliceSite, WeightSite


@final
class ReparameterizedProducts(AttentionProducts):
    """Attention by `x_n^T Q(Q(M_h) x_m)`, one quantized input serving queries, keys and values.

    Args:
        inputs: Quantizer of the layer's input, (B, N, C).
        product: Quantizer of the products of weights, (h C, C).
        value_weight: Quantizer of the value's weight, (A, C).
        key: Quantizer of `M_h x_m`, (B, N, h, C).
        value: Quantizer of the values, (B, N, A).
        probability: Quantizer of the probabilities, (B, h, N, N).
        published: Leave out the biases of queries and keys, as the reference code does.
    """

    def __init__(
        self,
        *,
        inputs: nn.Module,
        product: Quantizer,
        value_weight: Quantizer,
        key: nn.Module,
        value: nn.Module,
        probability: nn.Module,
        published: bool = False,
    ) -> None:
        super().__init__(value, probability)
        self.input_quantizer = inputs
        self.product_quantizer = product
        product.recompute = False  # its latents are derived: they would have to be saved in place of the values
        self.value_weight_quantizer = value_weight
        self.key_quantizer = key
        self.published = published

    def scores_and_values(self, x: Tensor, setting: AttentionSetting) -> tuple[Tensor, Tensor]:
        """Quantize the input once, and multiply it with the products of the weights and with itself."""
        x = self.input_quantizer(x)
        weight, bias = _parameters(setting.qkv)
        size, heads = weight.shape[0] // 3, setting.num_heads
        value_weight = self.value_weight_quantizer(weight[2 * size :])
        product = self.product_quantizer(query_key_products(weight, heads))
        with values_recomputed(value_weight):  # not the input: three operations share it
            value = F.linear(x, value_weight, None if bias is None else bias[2 * size :])
            keys = F.linear(x, product)
        keys = self.key_quantizer(keys.view(*x.shape[:2], heads, -1))
        with values_recomputed(keys):
            # One product a sample over all heads: (N, C) times (C, N h), without a copy of either.
            scores: Tensor = _RowProducts.apply(x.to(keys.dtype), keys.flatten(1, 2))
        scores = scores.view(*x.shape[:2], x.shape[1], heads).permute(0, 3, 1, 2)
        if bias is not None and not self.published:
            scores = scores + F.linear(x, key_bias(weight, bias, heads)).transpose(1, 2)[:, :, None]
        return scores, value

    def quantized_here(self, name: str, qkv: nn.Module, num_heads: int) -> tuple[WeightSite, ...]:
        """Return the products of weights, which are derived, and the value's rows of the joint weight."""
        weight = qkv.weight
        assert isinstance(weight, Parameter)
        rows = weight.shape[0]
        return (
            ProductSite(f"{name}.qk", self.product_quantizer, weight, num_heads),
            SliceSite(f"{name}.v", self.value_weight_quantizer, weight, 2 * (rows // 3), rows),
        )


class _RowProducts(torch.autograd.Function):
    """`x @ y^T` of each sample; (B, N, C) and (B, M, C) to (B, N, M).

    Both gradients come in the memory order of their tensors. torch's own gradient of `y` is a transposed view, which the quantizer behind
    would have to read across the grain, or copy.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.bmm(x, y.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return torch.bmm(gradient, y), torch.bmm(gradient.mT, x)


def key_bias(weight: Tensor, bias: Tensor, num_heads: int) -> Tensor:
    """Return `c_h = W_k,h^T b_q,h`, what the query's bias adds to each key."""
    size = weight.shape[0] // 3
    key = weight[size : 2 * size].reshape(num_heads, -1, weight.shape[1])
    return (bias[:size].reshape(num_heads, 1, -1) @ key)[:, 0]


def _parameters(qkv: nn.Module) -> tuple[Tensor, Tensor | None]:
    weight, bias = qkv.weight, qkv.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return weight, bias
