"""Golden tracking, freezing and dampening of our own: weights walk by fixed seeds, numbers by `plain` (docs/spec/cnn.md, 3 and 4)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.data.golden_quantizers import File
from tests.data.plain import Pins, PlainGrid, PlainTracker, aggregate, cosine, dampening

_STEPS = 100
_CHECKPOINTS = (0, 1, 4, 30, 31, 60, 99)


@dataclass(frozen=True)
class Walk:
    """One weight that wanders round its rounding boundaries."""

    name: str
    bits: int
    momentum: float
    threshold: float
    shape: tuple[int, ...] = (32,)
    anneal: tuple[float, float, float] | None = None
    use_ema: bool = True
    zero_float: float | None = None
    per_channel: bool = False
    skip_every: int | None = None
    moving_scale: bool = False

    def threshold_at(self, index: int) -> float:
        """Return the threshold after `index` steps; steps count from 1."""
        if self.anneal is None:
            return self.threshold
        start, end, begin = self.anneal
        return 0.0 if index + 1 < begin * _STEPS else cosine(index + 1, _STEPS, start, end, begin)


_WALKS = (
    Walk("ema_freeze", 3, 0.02, 0.08),
    Walk("current_value_freeze", 3, 0.05, 0.17, (4, 8), use_ema=False),
    Walk("tracking_only", 4, 0.1, 0.0),
    Walk("annealed_threshold", 3, 0.03, 0.0, (4, 8), anneal=(0.2, 0.06, 0.3)),
    Walk("interleaved_skip_tracking", 2, 0.04, 0.1, skip_every=3),
    Walk("asymmetric_moving_scale", 3, 0.03, 0.11, zero_float=3.3, moving_scale=True),
    Walk("per_channel", 4, 0.1, 0.12, (4, 2, 2, 2), per_channel=True),
)


def walk_files() -> Iterator[File]:
    for number, walk in enumerate(_WALKS):
        grid = PlainGrid(walk.bits, symmetric=walk.zero_float is None, signed=True if walk.zero_float is None else None)
        generator = torch.Generator().manual_seed(9000 + number)
        config = {
            "op": "tracker",
            "n_bits": walk.bits,
            "symmetric": grid.symmetric,
            "int_min": float(grid.limits[0]),
            "int_max": float(grid.limits[1]),
            "per_channel": walk.per_channel,
            "momentum": walk.momentum,
            "freeze_threshold": walk.threshold,
            "anneal": walk.anneal,
            "use_ema_x_int": walk.use_ema,
            "skip_every": walk.skip_every,
            "moving_scale": walk.moving_scale,
            "steps": _STEPS,
            "checkpoints": list(_CHECKPOINTS),
        }
        tensors = _walk_inputs(walk, grid, generator)
        yield f"osc_{number:02d}_{walk.name}", config, tensors | _walk_numbers(walk, grid, tensors)


def _walk_inputs(walk: Walk, grid: PlainGrid, generator: torch.Generator) -> dict[str, Tensor]:
    """Return latents that stay near a boundary each, by a noise of their own size, and now and then jump; some leave the grid."""
    delta = torch.tensor(0.11) if not walk.per_channel else 0.08 + 0.06 * torch.rand(walk.shape[0], 1, 1, 1, generator=generator)
    low, high = grid.limits
    zero = int(grid.zero_point(torch.tensor(walk.zero_float))) if walk.zero_float is not None else 0
    home = torch.randint(low - 1, high + 1, walk.shape, generator=generator) + 0.5 - zero
    size = 0.6 * torch.rand(walk.shape, generator=generator)
    noise = size * torch.randn(_STEPS, *walk.shape, generator=generator)
    drift = torch.linspace(-0.5, 0.5, _STEPS).reshape(-1, *[1] * len(walk.shape)) * torch.randn(walk.shape, generator=generator)
    scales = delta * (1 + 0.002 * torch.arange(_STEPS)) if walk.moving_scale else None
    tensors = {"delta": delta, "weights": (home + noise + drift) * delta}
    tensors |= {} if scales is None else {"delta_per_step": scales}
    return tensors | ({} if walk.zero_float is None else {"zero_float": torch.tensor(walk.zero_float)})


def _walk_numbers(walk: Walk, grid: PlainGrid, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    tracker = PlainTracker(walk.momentum, use_ema=walk.use_ema)
    thresholds = [walk.threshold_at(index) for index in range(_STEPS)]
    skips = [bool(walk.skip_every) and index % walk.skip_every == walk.skip_every - 1 for index in range(_STEPS)]
    codes, frozen, oscillated, checkpoints = [], [], [], {}
    for index in range(_STEPS):
        w = inputs["weights"][index].clone().requires_grad_()
        delta = inputs["delta_per_step"][index] if walk.moving_scale else inputs["delta"]
        delta = delta.clone().requires_grad_()
        code, value = grid.quantize(w, delta, inputs.get("zero_float"), tracker.pins)
        gradients = torch.autograd.grad(value.sum(), [w, delta])
        if not skips[index]:
            tracker.update(code, thresholds[index])
        codes.append(code.detach())
        frozen.append(0 if tracker.pins is None else int(tracker.pins.frozen.sum()))
        oscillated.append(tracker.oscillated)
        if index in _CHECKPOINTS:
            state = {"x_quant": value, "grad_w": gradients[0], "grad_delta": gradients[1]} | _walk_state(tracker)
            checkpoints |= {f"ck{index:03d}.{name}": tensor for name, tensor in state.items()}
    assert (walk.threshold == 0 and walk.anneal is None) == (frozen[-1] == 0), f"{walk.name}: {frozen[-1]} frozen"
    return checkpoints | {
        "x_int_all": torch.stack(codes).to(torch.int8),
        "frozen_count_all": torch.tensor(frozen, dtype=torch.int32),
        "oscillated_sum_all": torch.tensor(oscillated, dtype=torch.int32),
        "threshold_all": torch.tensor(thresholds, dtype=torch.float64),
        "skip_tracking_all": torch.tensor(skips),
    }


def _walk_state(tracker: PlainTracker) -> dict[str, Tensor]:
    state = {
        "prev_x_int": tracker.previous,
        "prev_switch_dir": tracker.direction,
        "ema_oscillation": tracker.frequency,
        "total_oscillation": tracker.total,
        "oscillated_sum": torch.tensor(tracker.oscillated),
    }
    if tracker.pins is not None:
        state |= {"frozen": tracker.pins.frozen, "frozen_x_int": tracker.pins.codes}
        state |= {"ema_x_int": tracker.average} if tracker.use_ema else {}
    return state


@dataclass(frozen=True)
class Damp:
    name: str
    bits: int
    aggregation: str
    shape: tuple[int, ...]
    per_channel: bool = False
    zero_float: float | None = None
    log: bool = False
    frozen: bool = False
    gradient_scaling: bool = False


_DAMPS = (
    Damp("pt_sum_conv", 3, "sum", (5, 3, 3, 3)),
    Damp("pt_mean_linear", 4, "mean", (8, 13)),
    Damp("pc_kernel_mean_conv", 3, "kernel_mean", (6, 2, 3, 3), per_channel=True),
    Damp("pc_kernel_mean_depthwise", 4, "kernel_mean", (10, 1, 3, 3), per_channel=True),
    Damp("asym_pt_kernel_mean", 3, "kernel_mean", (7, 11), zero_float=2.7),
    Damp("log_pt_mean", 2, "mean", (4, 3, 3, 3), log=True),
    Damp("pt_sum_with_frozen", 3, "sum", (6, 14), frozen=True),
    Damp("pc_kernel_mean_with_frozen_gradscale", 4, "kernel_mean", (5, 3, 3, 3), per_channel=True, frozen=True, gradient_scaling=True),
)


def damp_files() -> Iterator[File]:
    for number, case in enumerate(_DAMPS):
        generator = torch.Generator().manual_seed(9500 + number)
        symmetric = case.zero_float is None
        grid = PlainGrid(
            case.bits, symmetric=symmetric, signed=True if symmetric else None, log=case.log, gradient_scaling=case.gradient_scaling
        )
        config = {
            "op": "damp",
            "n_bits": case.bits,
            "symmetric": symmetric,
            "int_min": float(grid.limits[0]),
            "int_max": float(grid.limits[1]),
            "aggregation": case.aggregation,
            "per_channel": case.per_channel,
            "scale_domain": "log" if case.log else "linear",
            "frozen": case.frozen,
            "grad_scaling": case.gradient_scaling,
        }
        yield f"damp_{number:02d}_{case.name}", config, _damp_tensors(case, grid, generator)
    yield _damp_total(f"damp_{len(_DAMPS):02d}_model_total")


def _damp_tensors(case: Damp, grid: PlainGrid, generator: torch.Generator) -> dict[str, Tensor]:
    shape = (case.shape[0], *[1] * (len(case.shape) - 1)) if case.per_channel else ()
    scale = 0.1 + 0.1 * torch.rand(shape, generator=generator)
    delta = (scale.log() if case.log else scale.clone()).requires_grad_()
    zeta = None if case.zero_float is None else torch.tensor(case.zero_float, requires_grad=True)
    w = _latents(case.shape, grid, scale, int(grid.zero_point(zeta)), generator).requires_grad_()
    pins = None
    if case.frozen:
        codes = torch.randint(grid.limits[0], grid.limits[1] + 1, case.shape, generator=generator).float()
        pins = Pins(torch.rand(case.shape, generator=generator) < 0.3, codes)
    losses, target = dampening(w, grid, delta, zeta, pins)
    loss = aggregate(losses, case.aggregation)
    leaves = [leaf for leaf in (w, delta, zeta) if leaf is not None]
    gradients = torch.autograd.grad(loss, leaves)
    ends = grid.ends(delta, zeta)
    tensors = {"weight": w, "delta": delta, "scale": grid.scale(delta), "grid_min": ends[0], "grid_max": ends[1], "target": target}
    tensors |= {"loss": loss, "grad_weight": gradients[0], "grad_delta": gradients[1]}
    tensors |= {} if zeta is None else {"zero_float": zeta, "grad_zero_float": gradients[2]}
    return tensors | ({} if pins is None else {"frozen": pins.frozen, "frozen_x_int": torch.where(pins.frozen, pins.codes, 0)})


def _latents(shape: tuple[int, ...], grid: PlainGrid, scale: Tensor, zero: int, generator: torch.Generator) -> Tensor:
    """Return latents over the grid and a step and a half beyond, none within 0.01 steps of a rounding boundary."""
    low, high = grid.limits
    positions = low - 1.5 + (high - low + 3) * torch.rand(shape, generator=generator)
    nearest = positions.round()
    return (nearest + (positions - nearest).clamp(-0.49, 0.49) - zero) * scale


def _damp_total(stem: str) -> File:
    shapes = {"0": (4, 3, 3, 3), "1": (6, 4, 1, 1), "3": (5, 6)}
    bits = {"0": 8, "1": 3, "3": 4}
    weighting = 0.23
    generator = torch.Generator().manual_seed(9600)
    tensors: dict[str, Tensor] = {}
    totals = dict.fromkeys(("sum", "mean", "kernel_mean"), 0.0)
    for name, shape in shapes.items():
        grid, delta = PlainGrid(bits[name]), 0.05 + 0.1 * torch.rand(1, generator=generator)
        w = _latents(shape, grid, delta, 0, generator).requires_grad_()
        tensors |= {f"layer{name}.weight": w, f"layer{name}.delta": delta}
        for how in totals:
            loss = weighting * aggregate(dampening(w, grid, delta)[0], how)
            totals[how] = totals[how] + loss
            tensors[f"layer{name}.grad_weight_{how}"] = torch.autograd.grad(loss, w)[0]
    tensors |= {f"total_{how}": total for how, total in totals.items()}
    return stem, {"op": "damp_total", "layers": list(bits), "n_bits": bits, "weighting": weighting}, tensors
