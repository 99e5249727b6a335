"""The networks of the export benchmarks: complete ones at 224 x 224, calibrated on photographs."""

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import Tensor, nn

from stillbit import QuantConfig, calibrate, prepare, reestimate_batchnorm

SIZE = 224
BITS = ("W4A4", "W3A3", "W2A2")
CNNS = {
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv3_small": "mobilenetv3_small_100",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "resnet18": "resnet18",
}
VITS = {"deit_t": "deit_tiny_patch16_224", "swin_t": "swin_tiny_patch4_window7_224"}
POLICIES = ("lsq_paper", "integer")
ATTENTIONS = tuple((attention, scales) for attention in ("plain", "qkr") for scales in ("tensor", "token"))
_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "cat", "immunohistochemistry", "retina", "lily")


def photos(folder: Path | None = None, count: int = 16) -> Tensor:
    """Return normalized images: two crops of each of scikit-image's photographs, or pictures of a folder of folders."""
    return torch.stack([_tensor(image) for image in (_from_skimage() if folder is None else _from_folder(folder, count))])[:count]


def _from_skimage() -> list[Image.Image]:
    from skimage import data

    found = []
    for name in _PHOTOS:
        if hasattr(data, name):
            try:
                whole = Image.fromarray(getattr(data, name)()[..., :3])
            except Exception:
                continue
            width, height = whole.size
            side = min(width, height)
            found.append(whole.crop((0, 0, side, side)))
            found.append(whole.crop((width - side * 2 // 3, height - side * 2 // 3, width, height)))
    return found


def _from_folder(folder: Path, count: int) -> list[Image.Image]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    return [Image.open(path).convert("RGB") for path in files[:: max(len(files) // count, 1)][:count]]


def _tensor(image: Image.Image) -> Tensor:
    resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    values = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(SIZE, SIZE, 3).permute(2, 0, 1) / 255
    return (values - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def float_model(name: str, images: Tensor) -> nn.Module:
    """Return a float network: EfficientNet-Lite0 with its ImageNet weights, the others random, with statistics of the images."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(CNNS.get(name) or VITS[name], pretrained=False).eval()
    if name == "efficientnet_lite0":
        _load_imagenet(model)
    elif name in CNNS:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
        reestimate_batchnorm(model, [(images,)], batches=1)
    return model


def quantized(name: str, config: QuantConfig, images: Tensor) -> nn.Module:
    """Return a network that is prepared and calibrated on the images."""
    model = float_model(name, images)
    prepare(model, config, example=images[:1])
    calibrate(model, [(images[:8],)])
    if name in CNNS:
        reestimate_batchnorm(model, [(images,)], batches=1)
    return model.eval()


def settings(name: str) -> dict[str, Callable[[str], QuantConfig]]:
    """Return the ways to quantize a network, by name; each makes a configuration from widths."""
    if name in CNNS:
        return {policy: lambda bits, policy=policy: QuantConfig.parse(bits, policy=policy) for policy in POLICIES}  # type: ignore[misc]
    return {
        f"{attention}-{scales}": lambda bits, attention=attention, scales=scales: QuantConfig.for_vit(  # type: ignore[misc]
            bits, attention=attention, activation_scales=scales
        )
        for attention, scales in ATTENTIONS
    }


def _load_imagenet(model: nn.Module) -> None:
    from examples.efficientnet_lite0_weights import packaged_weights, rename

    model.load_state_dict(rename(packaged_weights(), model.state_dict()), strict=True)
