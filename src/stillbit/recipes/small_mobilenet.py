"""The small network of the demo and of the `digits_*` recipes."""

from timm.models.efficientnet import EfficientNet, decode_arch_def
from torch import nn

# Blocks of MobileNetV2 in timm's notation: repeats, kernel, stride, expansion, width; one list a resolution.
_STAGES = [
    ["ds_r1_k3_s1_c16"],
    ["ir_r2_k3_s2_e6_c24"],
    ["ir_r2_k3_s2_e6_c40"],
]


def small_mobilenet(num_classes: int = 10, in_chans: int = 1) -> nn.Module:
    """Build a MobileNetV2 for images of 16 to 32 pixels: 5 blocks, 58 thousand weights.

    It is timm's own network class with timm's own blocks, so that whatever holds for it here holds for a MobileNetV2.

    Args:
        num_classes: Width of the classifier.
        in_chans: Channels of the image.

    Returns:
        The network with random weights; it maps (N, in_chans, H, W) to (N, num_classes).
    """
    network: nn.Module = EfficientNet(
        decode_arch_def(_STAGES),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_size=16,
        num_features=192,
        act_layer=nn.ReLU6,
    )
    return network
