"""From a run to a file, and from a file back to the run that it came from."""

import math

from stillbit.export.preprocessing import Preprocessing
from stillbit.training.data import DataConfig


def preprocessing_of(config: DataConfig) -> Preprocessing:
    """Give what the validation images of a data section go through."""
    mean, std = config.normalization
    interpolation = config.val_interpolation or config.interpolation
    return Preprocessing(config.image_size, math.floor(config.image_size / config.crop_pct), interpolation, mean, std)
