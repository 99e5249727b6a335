"""Show what a network with ImageNet classes sees in the photos that scikit-image ships, under two normalizations.

    python examples/classify_photos.py efficientnet_lite0.safetensors

A wrong order of weights gives noise, and a wrong normalization gives weaker answers; both show at once on photos of a
cat, a cup of coffee, a photographer and a rocket.
"""

import argparse
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from skimage import data
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageNetInfo, create_transform
from torch import nn

PHOTOS = ("chelsea", "coffee", "camera", "rocket")
NORMALIZATIONS = {
    "0.5 / 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "ImageNet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}


@torch.no_grad()
def top_classes(
    model: nn.Module, photo: Image.Image, mean: tuple[float, ...], std: tuple[float, ...], num_classes: int = 5
) -> list[tuple[str, float]]:
    """Return the likeliest ImageNet classes of a photo.

    Args:
        model: Maps (1, 3, 224, 224) to 1000 logits.
        photo: RGB, of any size.
        mean: Channel means that the network was trained with, for pixels in 0..1.
        std: Channel deviations, likewise.
        num_classes: How many classes to return.

    Returns:
        Description and probability, the likeliest first.
    """
    transform = create_transform(224, interpolation="bicubic", crop_pct=0.875, mean=mean, std=std)
    assert callable(transform)
    probabilities, classes = model.eval()(transform(photo)[None]).softmax(dim=1)[0].topk(num_classes)
    names = ImageNetInfo()
    return [
        (names.index_to_description(int(index)).partition(",")[0], float(probability))
        for index, probability in zip(classes, probabilities, strict=True)
    ]


def main() -> None:
    """Parse the command line and print a line for each photo and normalization."""
    parser = argparse.ArgumentParser(description="Classify scikit-image's photos.")
    parser.add_argument("checkpoint", type=Path, help="weights with 1000 classes")
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="timm's name of the network")
    options = parser.parse_args()
    if not options.checkpoint.is_file():
        sys.exit(f"error: no file {options.checkpoint}")
    model = timm.create_model(options.model, checkpoint_path=str(options.checkpoint))
    for name in PHOTOS:
        photo = Image.fromarray(getattr(data, name)()).convert("RGB")
        for label, (mean, std) in NORMALIZATIONS.items():
            found = ", ".join(f"{description} {share:.2f}" for description, share in top_classes(model, photo, mean, std))
            print(f"{name:9} {label:10} {found}")


if __name__ == "__main__":
    main()
