"""The derived latent of query-key reparameterization: one product of weights a head, quantized as it stands.

Source: "Oscillation-free Quantization for Low-bit Vision Transformers" (ICML 2023, arXiv 2302.02210), section 4.3.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from stillbit.errors import PrepareError
from stillbit.quantizers.base import Quantizer


def query_key_products(qkv: Tensor, num_heads: int) -> Tensor:
    """Return `W_q^T W_k` of every head, below each other.

    Args:
        qkv: Joint weight of query, key and value, (3 A, C), A being `num_heads` times the width of a head.
        num_heads: Number of heads h.

    Returns:
        (h C, C); row `head * C + c` belongs to channel c of the query's input.

    >>> query_key_products(torch.eye(2).repeat(3, 1), num_heads=2)
    tensor([[1., 0.],
            [0., 0.],
            [0., 0.],
            [0., 1.]])
    """
    query, key = _heads(qkv, num_heads)
    with torch.autocast(qkv.device.type, enabled=False):  # codes must not depend on autocast, nor differ from those a method sees
        return (query.mT @ key).flatten(0, 1)


def _heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Return the weights of query and key, (h, width of a head, C) each; views."""
    rows, channels = qkv.shape[0] // 3, qkv.shape[1]
    query, key = qkv[: 2 * rows].reshape(2, num_heads, rows // num_heads, channels)
    return query, key


@dataclass(frozen=True)
class ProductSite:
    """The products of query and key weights. They are derived: single elements cannot be written."""

    writable: ClassVar[bool] = False
    name: str
    quantizer: Quantizer
    parameter: Parameter
    num_heads: int
    output_axis: int = 0

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The joint weight of query, key and value."""
        return (self.parameter,)

    def latent(self) -> Tensor:
        """Return the products, (h C, C), computed afresh."""
        return query_key_products(self.parameter, self.num_heads)

    def gradient(self) -> Tensor:
        """Refuse.

        Raises:
            PrepareError: Always: a product's gradient is kept nowhere.
        """
        raise PrepareError(f"site {self.name}: a product of two weights has no gradient of its own; allowed: add_gradient")

    @torch.no_grad()
    def add_gradient(self, gradient: Tensor) -> None:
        """Pull a gradient of the products back to the weights: `W_k g^T` to the query's, `W_q g` to the key's."""
        query, key = _heads(self.parameter, self.num_heads)
        of_heads = gradient.reshape(self.num_heads, -1, gradient.shape[1])
        pulled = torch.cat([(key @ of_heads.mT).flatten(0, 1), (query @ of_heads).flatten(0, 1)])
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter)
        self.parameter.grad[: len(pulled)] += pulled

    def write(self, mask: Tensor, value: Tensor) -> None:
        """Refuse.

        Raises:
            PrepareError: Always: no choice of the weights sets single elements of their product.
        """
        del mask, value
        raise PrepareError(f"site {self.name}: a product of two weights cannot be written; allowed: methods that only read it")
