"""Golden batch-norm re-estimation of our own: small stacks by fixed seeds, numbers in float64 by `plain` (docs/spec/cnn.md, 5)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tests.data.golden_quantizers import File
from tests.data.plain import Pins, PlainGrid, PlainTracker

_MARGIN = 2e-5  # no activation is nearer to a rounding boundary, in grid steps: so float32 sums in any order give the same codes
_MOMENTUM = 0.05
_UNREACHED = 1.0  # a threshold above every frequency: averages are tracked, nothing freezes again
_CONVS = (
    {"type": "conv", "stride": 1, "padding": 1, "groups": 1, "act": "ReLU6", "eps": 1e-5},
    {"type": "conv", "stride": 2, "padding": 1, "groups": 4, "act": "ReLU", "eps": 1e-5},
    {"type": "conv", "stride": 1, "padding": 0, "groups": 1, "act": None, "eps": 1e-5},
)
_CONV_SHAPES = ((4, 2, 3, 3), (4, 1, 3, 3), (6, 4, 1, 1))
_LINEARS = ({"type": "linear", "act": "ReLU", "eps": 1e-3}, {"type": "linear", "act": None, "eps": 1e-5})
_LINEAR_SHAPES = ((7, 5), (4, 7))
_ACTIVATIONS = {"ReLU": torch.relu, "ReLU6": F.relu6, None: lambda x: x}


@dataclass(frozen=True)
class Stack:
    """One case."""

    name: str
    seed: int
    bits: int | None = None
    linear: bool = False
    tracked: bool = False
    num_batches: int = 50
    second_pass: int | None = None

    @property
    def layers(self) -> list[dict]:
        layers = [dict(layer) for layer in (_LINEARS if self.linear else _CONVS)]
        for index, layer in enumerate(layers):
            layer |= {"w_bits": self.bits, "a_bits": self.bits if index else None}
            layer |= {"w_signed": True} | ({"a_signed": False} if index else {}) if self.bits else {}
        return layers


_STACKS = (
    Stack("fp_all_batches", 1),
    Stack("quantized_first_k_batches", 2, bits=4, num_batches=2),
    Stack("linear_bn_with_bias", 3, linear=True),
    Stack("quantized_with_oscillation_tracker", 4, bits=3, tracked=True),
    Stack("second_pass", 5, second_pass=2),
)


def bn_files() -> Iterator[File]:
    for number, stack in enumerate(_STACKS):
        tracked = {f"body.{index}.weight_quantizer": {"momentum": _MOMENTUM} for index in range(len(stack.layers))}
        config = {
            "op": "bn",
            "layers": stack.layers,
            "quantized": stack.bits is not None,
            "num_batches": stack.num_batches,
            "n_batches_given": 4,
            "second_pass_batches": stack.second_pass,
            "bn_momentum_restored": 0.1,
            "tracker": tracked if stack.tracked else None,
        }
        yield f"bn_{number:02d}_{stack.name}", config, _numbers(stack, _inputs(stack))


def _inputs(stack: Stack) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(stack.seed)
    shape = (9, 5) if stack.linear else (4, 2, 6, 6)
    tensors = {f"batch_{index}": torch.randn(shape, generator=generator) + 0.2 for index in range(4)}
    for index, weight_shape in enumerate(_LINEAR_SHAPES if stack.linear else _CONV_SHAPES):
        channels = weight_shape[0]
        layer = {
            "weight": 0.4 * torch.randn(weight_shape, generator=generator),
            "gamma": 0.7 + torch.rand(channels, generator=generator),
            "beta": 0.3 * torch.randn(channels, generator=generator),
            "running_mean_init": 0.2 * torch.randn(channels, generator=generator),
            "running_var_init": 0.5 + torch.rand(channels, generator=generator),
        }
        if stack.bits:
            layer |= {"delta_w": torch.tensor([0.9 / 2 ** (stack.bits - 1)]), "delta_in": torch.tensor([3.1 / 2**stack.bits])}
        if index == 0:
            layer.pop("delta_in", None)
        tensors |= {f"layer{index}.{name}": tensor for name, tensor in layer.items()}
    if stack.linear:  # the published layer drops its bias and takes it off the running mean
        bias, mean = torch.randn(7, generator=generator), tensors["layer0.running_mean_init"]
        tensors |= {"unfused_first_bias": bias, "unfused_first_running_mean": mean, "layer0.running_mean_init": mean - bias}
    return tensors


def _numbers(stack: Stack, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    trackers = [_tracker(tensors, index, stack) for index in range(len(stack.layers))] if stack.tracked else None
    found = _tracker_state(trackers, "before") if trackers else {}
    initial = {name: tensor for name, tensor in tensors.items() if name.endswith("_init")}
    found["eval_out_before"] = _forward(stack, tensors, "batch_0", initial)[0]  # before the trackers pin anything
    final = _reestimate(stack, tensors, min(4, stack.num_batches), trackers)
    found |= _tracker_state(trackers, "after") if trackers else {}
    if stack.second_pass:
        found |= {f"{name}_pass_1": tensor for name, tensor in final.items()}
        final = _reestimate(replace(stack, num_batches=stack.second_pass), tensors, stack.second_pass, None)
    found["eval_out_after"] = _forward(stack, tensors, "batch_0", {f"{name}_init": tensor for name, tensor in final.items()}, trackers)[0]
    found |= {f"{name}_final": tensor for name, tensor in final.items()}
    return tensors | {name: tensor.float() if tensor.dtype == torch.float64 else tensor for name, tensor in found.items()}


def _reestimate(stack: Stack, tensors: dict[str, Tensor], batches: int, trackers: list[PlainTracker] | None) -> dict[str, Tensor]:
    seen = [_forward(stack, tensors, f"batch_{index}", None, trackers, track=True)[1] for index in range(batches)]
    return {name: torch.stack([one[name] for one in seen]).mean(0) for name in seen[0]}


def _forward(
    stack: Stack,
    tensors: dict[str, Tensor],
    batch: str,
    running: dict[str, Tensor] | None,
    trackers: list[PlainTracker] | None = None,
    *,
    track: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output and each layer's mean and unbiased variance; normalises by `running`, else by the batch's own statistics."""
    x, statistics = tensors[batch].double(), {}
    for index, layer in enumerate(stack.layers):
        prefix = f"layer{index}."
        w = tensors[prefix + "weight"]
        if stack.bits:
            pins = trackers[index].pins if trackers else None
            code, w = PlainGrid(stack.bits).quantize(w, tensors[prefix + "delta_w"], pins=pins)
            if trackers and track:
                trackers[index].update(code, _UNREACHED)
            if index:
                x = _quantized_input(stack, x, tensors[prefix + "delta_in"].double())
        settings = {name: layer[name] for name in ("stride", "padding", "groups") if name in layer}
        y = (F.linear if stack.linear else F.conv2d)(x, w.double(), **settings)
        axes = [axis for axis in range(y.dim()) if axis != 1]
        mean, var = y.mean(axes), y.var(axes, unbiased=False)
        statistics |= {f"{prefix}running_mean": mean, f"{prefix}running_var": y.var(axes, unbiased=True)}
        if running is not None:
            mean, var = (running[f"{prefix}running_{kind}_init"].double() for kind in ("mean", "var"))
        gamma, beta = (tensors[prefix + name].double() for name in ("gamma", "beta"))
        mean, var, gamma, beta = (t.reshape(-1, *[1] * (y.dim() - 2)) for t in (mean, var, gamma, beta))
        x = _ACTIVATIONS[layer["act"]]((y - mean) / (var + layer["eps"]).sqrt() * gamma + beta)
    return x, statistics


def _quantized_input(stack: Stack, x: Tensor, delta: Tensor) -> Tensor:
    positions = x / delta
    margin = float((positions - positions.floor() - 0.5).abs().min())
    assert margin > _MARGIN, f"{stack.name}: an activation is {margin:.2g} steps from a rounding boundary; take another seed"
    return PlainGrid(stack.bits, signed=False).quantize(x, delta)[1]


def _tracker(tensors: dict[str, Tensor], index: int, stack: Stack) -> PlainTracker:
    """Return a tracker in the middle of training: some weights frozen, not always where their latents round to."""
    generator = torch.Generator().manual_seed(50 + index)
    code = PlainGrid(stack.bits).quantize(tensors[f"layer{index}.weight"], tensors[f"layer{index}.delta_w"])[0]
    low, high = PlainGrid(stack.bits).limits
    tracker = PlainTracker(_MOMENTUM)
    tracker.previous = (code + torch.randint(-1, 2, code.shape, generator=generator)).clamp(low, high)
    tracker.direction = torch.randint(-1, 2, code.shape, generator=generator).float()
    tracker.frequency = 0.3 * torch.rand(code.shape, generator=generator)
    tracker.total = torch.randint(0, 9, code.shape, generator=generator).float()
    tracker.average = tracker.previous + 0.3 * torch.randn(code.shape, generator=generator)
    frozen = torch.rand(code.shape, generator=generator) < 0.2
    tracker.pins = Pins(frozen, torch.where(frozen, tracker.previous, 0))
    return tracker


def _tracker_state(trackers: list[PlainTracker], when: str) -> dict[str, Tensor]:
    found = {}
    for index, tracker in enumerate(trackers):
        state = {
            "prev_x_int": tracker.previous,
            "prev_switch_dir": tracker.direction,
            "ema_oscillation": tracker.frequency,
            "total_oscillation": tracker.total,
            "ema_x_int": tracker.average,
            "frozen": tracker.pins.frozen,
            "frozen_x_int": tracker.pins.codes,
        }
        found |= {f"tracker.body.{index}.weight_quantizer.{name}_{when}": tensor for name, tensor in state.items()}
    return found
