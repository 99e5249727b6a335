"""The two matrix products of attention with quantized factors, in the plain form.

Source: "Oscillation-free Quantization for Low-bit Vision Transformers" (ICML 2023, arXiv 2302.02210), figure 3.

A quantized attention layer keeps everything of its float layer, and asks its `AttentionProducts` for what stands between the input
and the projection behind it. How queries and keys are quantized is decided there alone; windows, masks and position biases are the
layer's. No fused attention is used: it would skip the quantizer of the probabilities.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, final

from torch import Tensor, nn

from stillbit.numerics.fast import values_recomputed
from stillbit.quantizers.site import WeightSite


class AttentionSetting(NamedTuple):
    """What a layer tells its products about itself.

    Attributes:
        qkv: The joint projection of query, key and value; its parameters, and in the plain form its forward.
        num_heads: Number of heads h.
        scale: What query-key products are multiplied by.
        drop: Dropout of the probabilities.
        query_norm: Normalization of each head's queries; None: none.
        key_norm: Likewise for keys.
    """

    qkv: nn.Module
    num_heads: int
    scale: float
    drop: Callable[[Tensor], Tensor]
    query_norm: nn.Module | None = None
    key_norm: nn.Module | None = None


class AttentionProducts(nn.Module, ABC):
    """From the input of an attention layer to the mean of its values.

    Args:
        value: Quantizer of the values, (B, N, A).
        probability: Quantizer of the probabilities, (B, h, N, N), unsigned.
    """

    def __init__(self, value: nn.Module, probability: nn.Module) -> None:
        super().__init__()
        self.value_quantizer = value
        self.probability_quantizer = probability

    @abstractmethod
    def scores_and_values(self, x: Tensor, setting: AttentionSetting) -> tuple[Tensor, Tensor]:
        """Return query-key products (B, h, N, N), not scaled, and values (B, N, A), not quantized."""

    @abstractmethod
    def quantized_here(self, name: str, qkv: nn.Module, num_heads: int) -> tuple[WeightSite, ...]:
        """Return the sites of weights that are quantized here, rather than by `qkv` itself; `name` is the layer's."""

    def forward(self, x: Tensor, setting: AttentionSetting, offset: Tensor | None = None) -> Tensor:
        """Return the mean of the values, weighted by the probabilities.

        Args:
            x: Input of the layer, (B, N, C).
            setting: The layer's.
            offset: Is added to the scaled products, a position bias or a mask: (w, h or 1, N or 1, N), B being a multiple of w.

        Returns:
            (B, N, A), A being the width of all heads together.
        """
        products, values = self.scores_and_values(x, setting)
        scores = products * setting.scale
        if offset is not None:
            count = len(offset)
            scores = (scores.view(-1, count, *scores.shape[1:]) + offset).flatten(0, 1) if count > 1 else scores + offset
        probabilities = setting.drop(self.probability_quantizer(scores.softmax(-1)))
        values = split_heads(self.value_quantizer(values), setting.num_heads)
        with values_recomputed(probabilities):
            heads = probabilities.to(values.dtype) @ values
        return heads.transpose(1, 2).flatten(2)


@final
class PlainProducts(AttentionProducts):
    """Queries and keys are quantized each by themselves: `S = Q(q) Q(k)^T`.

    Args:
        query: Quantizer of the queries, (B, N, A).
        key: Quantizer of the keys, (B, N, A).
        value: Quantizer of the values, (B, N, A).
        probability: Quantizer of the probabilities, (B, h, N, N).
    """

    def __init__(self, *, query: nn.Module, key: nn.Module, value: nn.Module, probability: nn.Module) -> None:
        super().__init__(value, probability)
        self.query_quantizer = query
        self.key_quantizer = key

    def scores_and_values(self, x: Tensor, setting: AttentionSetting) -> tuple[Tensor, Tensor]:
        """Projects to queries, keys and values, and multiplies the former two."""
        query, key, value = setting.qkv(x).chunk(3, dim=-1)
        query = self.query_quantizer(_normalized(query, setting.query_norm, setting.num_heads))
        key = self.key_quantizer(_normalized(key, setting.key_norm, setting.num_heads))
        return split_heads(query, setting.num_heads) @ split_heads(key, setting.num_heads).mT, value

    def quantized_here(self, name: str, qkv: nn.Module, num_heads: int) -> tuple[WeightSite, ...]:
        """Return none: `qkv` is a quantized layer, and has its own."""
        del name, qkv, num_heads
        return ()


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Views (B, N, A) as (B, h, N, A / h)."""
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def _normalized(x: Tensor, norm: nn.Module | None, num_heads: int) -> Tensor:
    """Normalize each head of (B, N, A)."""
    if norm is None:
        return x
    normalized: Tensor = norm(x.reshape(*x.shape[:2], num_heads, -1)).flatten(2)
    return normalized
