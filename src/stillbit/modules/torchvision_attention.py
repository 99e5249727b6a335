"""The quantized form of torchvision's attention in shifted windows. Imported only where torchvision's models are."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch itself gives it
from torchvision.models.swin_transformer import ShiftedWindowAttention

from stillbit.modules.attention import AttentionProducts, AttentionSetting
from stillbit.modules.windows import Windows, position_bias
from stillbit.quantizers.site import WeightSite


class QuantShiftedWindowAttention(ShiftedWindowAttention):  # type: ignore[misc]
    """torchvision's `ShiftedWindowAttention` (Swin) with quantized factors in both products.

    Padding is zero before the input's quantizer, and takes part, as in the original.
    """

    products: AttentionProducts

    def forward(self, x: Tensor) -> Tensor:
        """Return the projection of the heads' means, on maps (B, H, W, C)."""
        window = (self.window_size[0], self.window_size[1])
        windows = Windows.of(x, window, (self.shift_size[0], self.shift_size[1]))
        offset = position_bias(self.relative_position_bias_table, self.relative_position_index, window[0] * window[1])
        mask = windows.mask(x)
        scale = (self.proj.in_features // self.num_heads) ** -0.5
        setting = AttentionSetting(self.qkv, self.num_heads, scale, self._drop_probabilities)
        heads = self.products(windows.cut(x), setting, offset if mask is None else offset + mask)
        output = F.dropout(self.proj(heads), self.dropout, self.training)
        return windows.join(output, (x.shape[1], x.shape[2]))

    def weight_sites(self, name: str) -> tuple[WeightSite, ...]:
        """Return the sites of weights that the products quantize."""
        return self.products.quantized_here(name, self.qkv, self.num_heads)

    def _drop_probabilities(self, probabilities: Tensor) -> Tensor:
        return F.dropout(probabilities, self.attention_dropout, self.training)
