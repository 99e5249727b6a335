"""Tiny attention layers, and their quantized forms without quantizers, for the tests of this folder."""

import copy
from collections.abc import Callable

import torch
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention

from stillbit.modules.adopt import adopt
from stillbit.modules.attention import AttentionProducts, PlainProducts
from stillbit.modules.qkr import ReparameterizedProducts
from stillbit.modules.timm_attention import QuantAttention, QuantWindowAttention
from stillbit.modules.torchvision_attention import QuantShiftedWindowAttention
from stillbit.quantizers import StatsQ

CHANNELS, HEADS, TOKENS = 12, 3, 6
QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    Attention: QuantAttention,
    WindowAttention: QuantWindowAttention,
    ShiftedWindowAttention: QuantShiftedWindowAttention,
}


def randomized(layer: nn.Module, *, deviation: float = 1.0) -> nn.Module:
    """Draw every parameter, biases included, large enough for attention far from uniform; float64, evaluation."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=deviation)
    return layer.double().eval()


def attention(**settings: object) -> nn.Module:
    return randomized(Attention(CHANNELS, HEADS, **({"qkv_bias": True} | settings)))


def shifted(shift: tuple[int, int], **settings: object) -> nn.Module:
    return randomized(ShiftedWindowAttention(CHANNELS, [4, 4], list(shift), HEADS, **settings))


def tokens(batch: int = 4) -> Tensor:
    return torch.randn(batch, TOKENS, CHANNELS, dtype=torch.float64)


def bypassed() -> StatsQ:
    quantizer = StatsQ(3, (1,))
    quantizer.bypass = True
    return quantizer


def plain() -> AttentionProducts:
    return PlainProducts(query=nn.Identity(), key=nn.Identity(), value=nn.Identity(), probability=nn.Identity())


def reparameterized(*, published: bool = False) -> AttentionProducts:
    return ReparameterizedProducts(
        inputs=nn.Identity(),
        product=bypassed(),
        value_weight=bypassed(),
        key=nn.Identity(),
        value=nn.Identity(),
        probability=nn.Identity(),
        published=published,
    )


def with_products(layer: nn.Module, products: AttentionProducts) -> nn.Module:
    """Return a copy of the layer in its quantized form."""
    return adopt(QUANTIZED[type(layer)], copy.deepcopy(layer), products=products)


FORMS: dict[str, Callable[[], AttentionProducts]] = {"plain": plain, "qkr": reparameterized}
