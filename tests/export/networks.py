"""The small networks that the tests of this folder export: one of each family, calibrated, with batch-norm statistics of their own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.prepare import QuantConfig, calibrate, prepare
from tests.prepare import networks, vits


def image(batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def exportable(model: nn.Module, config: QuantConfig) -> nn.Module:
    """Prepare and calibrate; batch norms get statistics and affine parameters as if they were trained."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    prepare(model, config, example=image())
    calibrate(model, [(image(4),)])
    return model.eval()


def cnn(make: Callable[[], nn.Module], bits: str = "W4A4", **settings: Any) -> Callable[[], nn.Module]:
    settings = {"weight_range": networks.MINMAX, "activation_range": networks.MINMAX} | settings
    return lambda: exportable(make(), QuantConfig.parse(bits, **settings))


def vit(make: Callable[[], nn.Module], bits: str = "W3A3", **settings: Any) -> Callable[[], nn.Module]:
    return lambda: exportable(make(), QuantConfig.for_vit(bits, **settings))


ASYMMETRIC: dict[str, Any] = {"weight_symmetric": False, "activation_symmetric": False, "per_channel": True}
TENSOR: dict[str, Any] = {"activation_scales": "tensor"}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet-lsq_paper": cnn(networks.small_mobilenet),
    "mobilenet-integer": cnn(networks.small_mobilenet, "W3A3", policy="integer"),
    "mobilenet-hard_swish": cnn(lambda: networks.small_mobilenet(hard_swish=True), policy="integer"),
    "mobilenet-all": cnn(networks.small_mobilenet, policy="all", per_channel=True),
    "resnet-integer": cnn(networks.small_resnet, policy="integer", per_channel=True),
    "resnet-asymmetric": cnn(networks.small_resnet, policy="integer", **ASYMMETRIC),
    "plain-W4A32": cnn(networks.Plain, "W4A32"),
    "vit-qkr_token": vit(vits.vit),
    "vit-qkr_tensor": vit(vits.vit, "W2A2", **TENSOR),
    "vit-plain_tensor": vit(vits.vit, "W4A4", attention="plain", **TENSOR),
    "vit-plain_token": vit(vits.vit, attention="plain"),
    "vit-float_attention": cnn(vits.vit, "W4A4"),
    "swin-qkr_token": vit(vits.swin),
    "swin-plain_tensor": vit(vits.swin, "W4A4", attention="plain", **TENSOR),
    "swin-torchvision": vit(vits.torchvision_swin, **TENSOR),
}
