"""What a run measures: sizes and rounds. The defaults are the table's; tests use tiny ones."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

import torch


@dataclass(frozen=True)
class Settings:
    """Sizes of one run.

    Attributes:
        rounds: Timed rounds of each pair, after two that do not count.
        short: Leave out what has no target: other libraries, variants.
        device: "cpu" or "cuda".
        elements: Size of the tensor in the fake-quantize row.
        cnn: The convolutional network, by timm's name.
        cnn_batch: Its batch.
        vit: The vision transformer, by timm's name.
        vit_batch: Its batch.
        image_size: Side of the images, pixels.
        batches: Batches that batch-norm re-estimation reads.
        network_settings: Further arguments of timm's constructor, by model name.
    """

    rounds: int = 15
    short: bool = False
    device: str = "cpu"
    elements: int = 10_000_000
    cnn: str = "mobilenetv2_100"
    cnn_batch: int = 8
    vit: str = "deit_tiny_patch16_224"
    vit_batch: int = 4
    image_size: int = 224
    batches: int = 10
    network_settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def on_gpu(self) -> Self:
        """Return the sizes of the GPU's targets."""
        return dataclasses.replace(self, device="cuda", elements=100_000_000, cnn_batch=256, vit="deit_small_patch16_224", vit_batch=128)

    def images(self, batch: int) -> torch.Tensor:
        """Return random images, the same each time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, 3, self.image_size, self.image_size, generator=generator).to(self.device)
