"""The tiny vision transformers that the tests of this folder prepare."""

from collections.abc import Callable
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from stillbit.prepare import QuantConfig, calibrate, prepare

SIZE = 32
SMALL: dict[str, Any] = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "num_classes": 5}


def vit(**settings: Any) -> nn.Module:
    """17 tokens of 16 channels."""
    return VisionTransformer(**(SMALL | {"depth": 2} | settings))


def distilled(**settings: Any) -> nn.Module:
    """18 tokens of 16 channels, two heads."""
    return VisionTransformerDistilled(**(SMALL | {"depth": 1} | settings))


def swin(**settings: Any) -> nn.Module:
    """Stages of 8 x 8 and 4 x 4 tokens in windows of 4 x 4, the second block of the first stage shifted."""
    sizes = {"img_size": SIZE, "patch_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4, "num_classes": 5}
    return SwinTransformer(**(sizes | {"drop_path_rate": 0.0} | settings))


def torchvision_swin() -> nn.Module:
    """As `swin`."""
    return TorchvisionSwin([4, 4], 8, [2, 1], [1, 2], [4, 4], stochastic_depth_prob=0.0, num_classes=5)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "distilled": distilled,
    "swin-timm": swin,
    "swin-torchvision": torchvision_swin,
}


def image(size: int = SIZE, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def calibrated(model: nn.Module, bits: str = "W3A3", **settings: Any) -> nn.Module:
    prepare(model, QuantConfig.for_vit(bits, **settings), example=image())
    calibrate(model, [(image(batch=4),)])
    return model


def loss(model: nn.Module, x: Tensor) -> Tensor:
    output = model(x)
    return torch.stack([one.square().mean() for one in (output if isinstance(output, tuple) else (output,))]).sum()
