"""The digits that scikit-learn bundles: 1797 grey images of 8 x 8 pixels in 10 classes. Needs no download."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SPLIT_SEED = 0
_NUM_TEST = 360  # a fifth
_ZOOM = 8  # so that crops move by less than one pixel of the original


class Digits:
    """One of two fixed, disjoint splits, as 64 x 64 grey images.

    Args:
        train: The 1437 training images, else the 360 test images.
    """

    num_classes = 10

    def __init__(self, *, train: bool) -> None:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
        chosen = order[_NUM_TEST:] if train else order[:_NUM_TEST]
        self._images = [_enlarge(pixels[index]) for index in chosen]
        self._labels = labels[chosen].tolist()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return a grey image and its class."""
        return self._images[index], self._labels[index]


def _enlarge(pixels: NDArray[np.float64]) -> Image.Image:
    grey = np.round(pixels.reshape(8, 8) * (255 / 16)).astype(np.uint8)  # the data's grey values are 0 to 16
    return Image.fromarray(grey).resize((8 * _ZOOM, 8 * _ZOOM), Image.Resampling.BILINEAR)
