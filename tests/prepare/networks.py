"""The networks that the tests of this folder prepare: whole ones of timm and torchvision, and small ones of their blocks."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import timm
import torch
import torchvision.models as vision
from timm.models.efficientnet import EfficientNet, decode_arch_def
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from stillbit.numerics.ranges import RangeConfig
from stillbit.prepare import Coverage, QuantConfig, calibrate, prepare

MINMAX = RangeConfig(estimator="current_minmax")  # quick

WHOLE: dict[str, Callable[[], nn.Module]] = {
    "mobilenetv2-timm": lambda: timm.create_model("mobilenetv2_100"),
    "mobilenetv2-torchvision": vision.mobilenet_v2,
    "efficientnet_lite0-timm": lambda: timm.create_model("efficientnet_lite0"),
    "tf_efficientnet_lite0-timm": lambda: timm.create_model("tf_efficientnet_lite0"),
    "resnet18-timm": lambda: timm.create_model("resnet18"),
    "resnet18-torchvision": vision.resnet18,
    "resnet50-timm": lambda: timm.create_model("resnet50"),
    "resnet50-torchvision": vision.resnet50,
    "mobilenetv3_small-timm": lambda: timm.create_model("mobilenetv3_small_100"),
    "mobilenetv3_small-torchvision": vision.mobilenet_v3_small,
}


@cache
def _built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return WHOLE[name]()


def whole(name: str) -> nn.Module:
    """Return a fresh copy of a network with random weights."""
    return copy.deepcopy(_built(name))


def small_mobilenet(*, hard_swish: bool = False) -> nn.Module:
    """A MobileNetV2 of two blocks, one of them residual: 8 layers, 1 sum."""
    activation = nn.Hardswish if hard_swish else nn.ReLU6
    stages = decode_arch_def([["ds_r1_k3_s1_c8"], ["ir_r1_k3_s1_e2_c8_noskip"]])
    return EfficientNet(stages, num_classes=5, stem_size=8, num_features=16, act_layer=activation)


def small_resnet() -> nn.Module:
    """A timm ResNet of four blocks, three of them with a projection: 13 layers, 4 sums."""
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(8, 8, 16, 16))


class Plain(nn.Module):
    """A class that no table knows: 3 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 3, groups=4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).mean((2, 3)))


def image(size: int = 32, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def prepared(model: nn.Module, bits: str = "W4A4", **settings: Any) -> tuple[nn.Module, Coverage]:
    settings = {"weight_range": MINMAX, "activation_range": MINMAX} | settings
    return model, prepare(model, QuantConfig.parse(bits, **settings), example=image().to(next(model.parameters(), image())))


def calibrated(model: nn.Module, bits: str = "W4A4", **settings: Any) -> nn.Module:
    prepared(model, bits, **settings)
    calibrate(model, [(image(batch=4),)])
    return model
