"""A small quantized network and scikit-learn's digits, for loops that belong to other libraries."""

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from stillbit.oscillation import Freezing
from stillbit.prepare import QuantConfig, calibrate, prepare, scales, weights
from stillbit.training.optim import JointOptimizer

NUM_IMAGES = 96
FREEZING = partial(Freezing, threshold=0.15, final_threshold=0.05, begin=0.2, ema_momentum=0.1)


def digits() -> TensorDataset:
    """The first images, (1, 8, 8), 0 to 1, and their classes."""
    images, labels = load_digits(return_X_y=True)
    return TensorDataset(
        torch.tensor(images[:NUM_IMAGES], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16.0, torch.tensor(labels[:NUM_IMAGES])
    )


def float_network() -> nn.Sequential:
    """Three convolutions, with batch norm, and a linear layer; the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip


def network() -> nn.Sequential:
    """The same with two layers of 3 bits, calibrated."""
    layers = float_network()
    images = digits().tensors[0][:32]
    prepare(layers, QuantConfig.parse("W3A3"), example=images[:1])
    calibrate(layers, [(images,)])
    return layers


def joint(model: nn.Module, lr: float = 0.05) -> JointOptimizer:
    """The published pair: weights by SGD, fast enough to oscillate, and scales by Adam."""
    return JointOptimizer(torch.optim.SGD(weights(model), lr=lr, momentum=0.9), torch.optim.Adam(scales(model), lr=1e-4))


def frozen(state: dict[str, Tensor]) -> int:
    """Count the pins of a model's state."""
    return sum(int((tensor != -128).sum()) for name, tensor in state.items() if name.endswith("pins"))
