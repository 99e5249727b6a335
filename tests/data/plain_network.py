"""A small MobileNetV2 whose layers quantize by `plain`, in the place of the library's own layers (docs/spec/cnn.md, 7.1, LSQ_paper set-up).

Only the float network's skeleton is shared with what is tested.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.data.golden_ranges import MSESearch, Range
from tests.data.plain import PlainGrid, PlainTracker, aggregate, dampening
from tests.golden.network import ReducedMobileNetV2

MAX_BITS = 4  # of weights that are tracked
MOMENTUM = 0.1
WEIGHT, INPUT = "weight_quantizer.quantizer", "activation_quantizer.quantizer"


class Layer(nn.Module):
    """A convolution or linear layer whose weight, and input, is quantized."""

    def __init__(self, layer: nn.Module, bits: int, *, input_bits: int | None) -> None:
        super().__init__()
        self.layer, self.grid, self.input_grid = layer, PlainGrid(bits), None
        self.input_bits = input_bits
        self.scale, self.input_scale = None, None
        self.search, self.input_search = None, None
        self.estimating = True
        self.tracker, self.threshold = PlainTracker(MOMENTUM), None
        self.margin = math.inf

    def forward(self, x: Tensor) -> Tensor:
        if self.estimating:
            self._estimate(x)
        if self.input_grid is not None:
            positions = x.detach() / self.input_scale.detach()
            self.margin = min(self.margin, float((positions - positions.floor() - 0.5).abs().min()))
            x = self.input_grid.quantize(x, self.input_scale)[1]
        code, w = self.grid.quantize(self.layer.weight, self.scale, pins=self.tracker.pins)
        if self.threshold is not None:
            self.tracker.update(code, self.threshold)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, w, self.layer.bias)
        return F.conv2d(x, w, None, self.layer.stride, self.layer.padding, 1, self.layer.groups)

    def _estimate(self, x: Tensor) -> None:
        """Set ranges from all batches so far, this one included, and quantize this one by them (docs/spec/cnn.md, 2.1)."""
        w = self.layer.weight.detach()
        self.search = self.search or _search(self.grid.bits, w)
        self.grid, self.scale = _searched(self.grid.bits, self.search, w)
        if self.input_bits is not None:
            self.input_search = self.input_search or _search(self.input_bits, x)
            self.input_grid, self.input_scale = _searched(self.input_bits, self.input_search, x)

    def dampening(self) -> Tensor:
        losses, _ = dampening(self.layer.weight, self.grid, self.scale, pins=self.tracker.pins)
        return aggregate(losses, "kernel_mean")


def _search(bits: int, first: Tensor) -> MSESearch:
    return MSESearch(Range("", "MSE", bits, "", search="grid"), first)


def _searched(bits: int, search: MSESearch, x: Tensor) -> tuple[PlainGrid, nn.Parameter]:
    low, high = search.update(x)
    grid = PlainGrid(bits, signed=bool(low < 0))
    return grid, nn.Parameter(grid.initial(low, high)[0])


class Network:
    """The quantized network, calibrated on some batches; parts by their published names. First and last layer have 8 bits."""

    def __init__(self, model: ReducedMobileNetV2, batches: list[Tensor], bits: int, bits_act: int) -> None:
        self.model = model
        self.layers: dict[str, Layer] = {}
        self.norms: dict[str, nn.BatchNorm2d] = {}
        names = fused_names(model)
        for fused, part in names.items():
            edge = fused in (next(iter(names)), "classifier.1")
            input_bits = 8 if edge else bits_act
            layer = Layer(model.get_submodule(part["weight"]), 8 if edge else bits, input_bits=input_bits if self.layers else None)
            model.set_submodule(part["weight"], layer)
            self.layers[fused] = layer
            if part["bn"]:
                self.norms[fused] = model.get_submodule(part["bn"])
        model.eval()
        for batch in batches:
            with torch.no_grad():
                model(batch)
        for layer in self.layers.values():
            layer.estimating = False

    @property
    def tracked(self) -> dict[str, Layer]:
        return {name: layer for name, layer in self.layers.items() if layer.grid.bits <= MAX_BITS}

    def scales(self) -> dict[str, nn.Parameter]:
        found = {}
        for name, layer in self.layers.items():
            found[f"{name}.{WEIGHT}"] = layer.scale
            if layer.input_scale is not None:
                found[f"{name}.{INPUT}"] = layer.input_scale
        return found

    def weights(self) -> dict[str, nn.Parameter]:
        found = {}
        for name, layer in self.layers.items():
            found[f"{name}.weight"] = layer.layer.weight
            if name in self.norms:
                found |= {f"{name}.gamma": self.norms[name].weight, f"{name}.beta": self.norms[name].bias}
            else:
                found[f"{name}.bias"] = layer.layer.bias
        return found

    def statistics(self) -> dict[str, Tensor]:
        return {f"{name}.running_{kind}": getattr(norm, f"running_{kind}") for name, norm in self.norms.items() for kind in ("mean", "var")}

    def track(self, threshold: float | None) -> None:
        """Let the trackers see every forward pass from now on, or none."""
        for layer in self.tracked.values():
            layer.threshold = threshold

    def frozen(self) -> list[int]:
        return [0 if layer.tracker.pins is None else int(layer.tracker.pins.frozen.sum()) for layer in self.tracked.values()]

    def per_layer(self, name: str) -> Tensor:
        return torch.stack([getattr(layer.tracker, name).double().sum() for layer in self.tracked.values()])

    def evaluate(self, x: Tensor) -> Tensor:
        self.model.eval()
        with torch.no_grad():
            return self.model(x)

    def reestimate(self, batches: list[Tensor]) -> None:
        self.model.eval()
        seen = []
        for norm in self.norms.values():
            norm.train()
            norm.momentum = 1.0
        for batch in batches:
            with torch.no_grad():
                self.model(batch)
            seen.append({name: tensor.clone() for name, tensor in self.statistics().items()})
        for name, tensor in self.statistics().items():
            tensor.copy_(torch.stack([one[name] for one in seen]).mean(0))
        for norm in self.norms.values():
            norm.eval()
            norm.momentum = 0.1


def fused_names(model: ReducedMobileNetV2) -> dict[str, dict[str, str | None]]:
    """Return the published name of each fused layer -> our names of its weight and batch norm."""
    found: dict[str, dict[str, str | None]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, index = name.rsplit(".", 1)  # convolution, norm, activation: three modules became one
            found[f"{parent}.{int(index) // 3}"] = {"weight": name, "bn": f"{parent}.{int(index) + 1}"}
    return found | {"classifier.1": {"weight": "classifier.1", "bn": None}}
