"""The networks to train: float, ours, and a description of ours that any other implementation can follow."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import stillbit as sb
from benchmarks.speed.settings import Settings


@dataclass(frozen=True)
class Codes:
    """A grid: codes from `low` to `high`, `scale` apart."""

    low: int
    high: int
    scale: float

    @property
    def bits(self) -> int:
        """Width of the codes."""
        return (self.high - self.low).bit_length()

    @property
    def signed(self) -> bool:
        """Whether codes may be negative."""
        return self.low < 0


@dataclass(frozen=True)
class LayerJob:
    """What is quantized in a layer; the first layer's input is not."""

    weight: Codes
    input: Codes | None


def float_model(name: str, settings: Settings) -> nn.Module:
    """Return the float network with random weights, the same each time."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **settings.network_settings.get(name, {}))
    return model.train().to(settings.device)


def cnn(settings: Settings, *, recompute: str = "balanced") -> nn.Module:
    """Return our convolutional network: W4A4, LSQ, 8 bits in the first and last layer."""
    minmax = sb.RangeConfig("current_minmax")  # a search would take longer than the measurement
    config = sb.QuantConfig.parse("W4A4", weight_range=minmax, activation_range=minmax, recompute=recompute)
    return _prepared(settings.cnn, config, settings, settings.cnn_batch)


def vit(settings: Settings, *, recompute: str = "balanced") -> nn.Module:
    """Return our vision transformer: W2A2, StatsQ, query-key reparameterization."""
    config = dataclasses.replace(sb.QuantConfig.for_vit("W2A2"), recompute=recompute)
    return _prepared(settings.vit, config, settings, settings.vit_batch)


def _prepared(name: str, config: sb.QuantConfig, settings: Settings, batch: int) -> nn.Module:
    model, images = float_model(name, settings), settings.images(batch)
    sb.prepare(model, config, example=images[:1])
    sb.calibrate(model, [(images,)])
    return model.train()


def job_of(model: nn.Module) -> dict[str, LayerJob]:
    """Return how each layer of a prepared model is quantized, and with which scales."""
    found = {}
    for name, layer in model.named_modules():
        weight, taken = getattr(layer, "weight_quantizer", None), getattr(layer, "input_quantizer", None)
        if isinstance(weight, sb.Quantizer):
            found[name] = LayerJob(_codes(weight), _codes(taken) if isinstance(taken, sb.Quantizer) else None)
    return found


def _codes(quantizer: sb.Quantizer) -> Codes:
    scale = quantizer.scale
    assert isinstance(scale, Tensor)
    return Codes(*quantizer.limits, float(scale.detach()))


def with_layers(settings: Settings, job: dict[str, LayerJob], build: Callable[[nn.Module, LayerJob], nn.Module]) -> nn.Module:
    """Return the float network with each layer of the job replaced by what `build` makes of it."""
    model = float_model(settings.cnn, settings)
    for name, each in job.items():
        model.set_submodule(name, build(model.get_submodule(name), each))
    return model.train().to(settings.device)


def whole_compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the model compiled whole; its first call compiles."""
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True)
    return compiled


@dataclass
class Training:
    """A network, its optimizer and its batch.

    Attributes:
        model: The network; its parameters are what is trained.
        images: Its input, shape (batch, 3, side, side).
        forward: The compiled form of `model`; None: `model` itself.
        bfloat16: Run the forward pass under autocast.
    """

    model: nn.Module
    images: Tensor
    forward: Callable[[Tensor], Tensor] | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        """Make labels and an optimizer."""
        self.labels = torch.arange(len(self.images), device=self.images.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def loss(self) -> Tensor:
        """Return the loss of the batch."""
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = (self.model if self.forward is None else self.forward)(self.images)
        return F.cross_entropy(logits.float(), self.labels)

    def step(self) -> None:
        """Take one optimizer step."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def saved_bytes(self) -> int:
        """Return the bytes that the forward pass keeps for the backward pass: each storage once, without parameters.

        Torch's hooks for saved tensors see them. The figure of a library that keeps tensors elsewhere is too low.
        """
        own = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        del loss
        return sum(seen.values())


def attentions(model: nn.Module) -> Iterator[Any]:
    """Return the modules with a fused attention."""
    return (module for module in model.modules() if hasattr(module, "fused_attn"))
