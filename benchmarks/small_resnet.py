"""A small ResNet for digits, the counterpart of `small_mobilenet`. Importing this file registers it with timm, and so with recipes.

It has the same resolutions (1/2, 1/2, 1/4, 1/8, 1/8 of the image) and about as many weights, but ordinary 3x3 convolutions in residual
blocks instead of depthwise ones. The blocks are timm's.
"""

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn

_STEM = 16
_BLOCKS = ((16, 1), (24, 2), (40, 2), (40, 1))  # width, stride


class SmallResNet(nn.Module):
    """Stem, four residual blocks, mean over the image, classifier.

    Args:
        num_classes: Width of the classifier.
        in_chans: Channels of the image.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, _STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.act1 = nn.ReLU(inplace=True)
        blocks, width = [], _STEM
        for wider, stride in _BLOCKS:
            shortcut = downsample_conv(width, wider, 1, stride) if (wider, stride) != (width, 1) else None
            blocks.append(BasicBlock(width, wider, stride, shortcut))
            width = wider
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, num_classes)."""
        features: Tensor = self.blocks(self.act1(self.bn1(self.conv1(images))))
        logits: Tensor = self.fc(self.pool(features).flatten(1))
        return logits


@register_model  # type: ignore[untyped-decorator]
def small_resnet(pretrained: bool = False, **arguments: Any) -> SmallResNet:
    """Build the network for timm's `create_model`; there are no pretrained weights."""
    if pretrained:
        raise RuntimeError("small_resnet has no pretrained weights")
    taken = {name: value for name, value in arguments.items() if name in ("num_classes", "in_chans")}
    return SmallResNet(**taken)
