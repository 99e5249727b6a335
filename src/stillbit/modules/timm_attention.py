"""The quantized forms of timm's attention layers. Imported only where timm is: `import stillbit` does not load timm."""

import torch
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from stillbit.modules.attention import AttentionProducts, AttentionSetting
from stillbit.modules.windows import position_bias
from stillbit.quantizers.site import WeightSite


class QuantAttention(Attention):  # type: ignore[misc]
    """timm's `Attention` (ViT, DeiT and many others) with quantized factors in both products."""

    products: AttentionProducts

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Return the projection of the heads' means; a mask may be bool (True is seen) or is added to the scores."""
        query_norm, key_norm = (None if isinstance(norm, nn.Identity) else norm for norm in (self.q_norm, self.k_norm))
        setting = AttentionSetting(self.qkv, self.num_heads, self.scale, self.attn_drop, query_norm, key_norm)
        heads = self.products(x, setting, _offset(x, attn_mask, is_causal))
        norm = getattr(self, "norm", None)  # newer than the oldest timm that we support
        output: Tensor = self.proj_drop(self.proj(heads if norm is None else norm(heads)))
        return output

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the sites of weights that the products quantize."""
        return self.products.quantized_here(name, self.qkv, self.num_heads)


class QuantWindowAttention(WindowAttention):  # type: ignore[misc]
    """timm's `WindowAttention` (Swin) with quantized factors in both products."""

    products: AttentionProducts

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the projection of the heads' means, windows (B windows, N, C), mask (windows, N, N)."""
        offset = position_bias(self.relative_position_bias_table, self.relative_position_index, x.shape[1])
        if mask is not None:
            offset = offset + mask[:, None]
        heads = self.products(x, AttentionSetting(self.qkv, self.num_heads, self.scale, self.attn_drop), offset)
        output: Tensor = self.proj_drop(self.proj(heads))
        return output

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the sites of weights that the products quantize."""
        return self.products.quantized_here(name, self.qkv, self.num_heads)


def _offset(x: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor | None:
    """Return a mask as something to be added, (w, h or 1, N, N)."""
    if is_causal:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
    if mask is None:
        return None
    added = torch.where(mask, 0.0, float("-inf")) if mask.dtype == torch.bool else mask
    return added.to(x.dtype)[(None,) * (4 - added.dim())]
