"""Golden quantizers and schedules of our own: inputs by fixed seeds, numbers by `plain` (docs/spec/cnn.md, 1 and 6)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.data.plain import EPS, PlainGrid, cosine

File = tuple[str, dict, dict[str, Tensor]]
_ARGUMENTS = {"ste": None, "ewgs": 0.2, "stacked_sigmoid": 1.0}
_NAMES = {(True, True): "sym_signed", (True, False): "sym_unsigned", (False, None): "asym"}


@dataclass(frozen=True)
class Quant:
    """One case; `channels` 0 means per tensor."""

    kind: str
    bits: int
    shape: tuple[int, ...]
    x_min: float
    x_max: float
    rounding: str = "ste"
    log: bool = False
    gradient_scaling: bool = False
    per_channel: bool = False
    given_as: str = "float"
    override: dict[str, float] = field(default_factory=dict)
    note: str = ""


_QUANT = (
    Quant("sym_signed", 4, (6, 3, 3, 3), -0.7, 0.875),  # a scale of 1/8: exact ties
    Quant("sym_signed", 2, (11, 13), -0.61, 0.4, "ewgs", gradient_scaling=True, given_as="tensor0d"),
    Quant("sym_signed", 3, (5, 4, 3, 3), -1.3, 1.1, "stacked_sigmoid", log=True, per_channel=True, given_as="tensor1d"),
    Quant("sym_signed", 8, (4, 1, 5, 5), -2.0, 2.1, gradient_scaling=True, per_channel=True, given_as="tensor1d"),
    Quant("sym_signed", 4, (8, 15), -0.9, 0.8, "ewgs", log=True, given_as="tensor1d"),
    Quant("sym_unsigned", 1, (9, 14), 0.0, 0.5),
    Quant("sym_unsigned", 3, (2, 4, 4, 4), 0.0, 3.5, "stacked_sigmoid", gradient_scaling=True),
    Quant("sym_unsigned", 4, (7, 16), 0.1, 5.3, "ewgs", per_channel=True, given_as="tensor1d"),
    Quant("sym_unsigned", 8, (120,), 0.0, 6.0, log=True, gradient_scaling=True, given_as="tensor0d"),
    Quant("asym", 2, (6, 2, 3, 3), -0.8, 1.1, log=True, per_channel=True, given_as="tensor1d"),
    Quant("asym", 3, (10, 12), -1.05, 2.5, gradient_scaling=True),
    Quant("asym", 4, (3, 4, 3, 3), -1.0, 0.7, "ewgs", gradient_scaling=True, given_as="tensor0d"),
    Quant("asym", 5, (6, 20), -1.9, 0.6, "stacked_sigmoid", per_channel=True, given_as="tensor1d"),
    Quant("asym", 3, (8, 9), -0.5, 1.0, override={"_zero_float": -1.7}, note="edge_zero_float_below_range"),
    Quant("asym", 4, (8, 9), -0.5, 1.0, override={"_zero_float": 15.6}, note="edge_zero_float_above_range"),
    Quant("sym_signed", 3, (8, 9), -0.5, 1.0, given_as="tensor1d", override={"_delta": -0.02}, note="edge_negative_delta"),
    Quant("sym_signed", 4, (8, 9), -2e-8, 1e-8, note="range_below_floor"),
)


def quant_files() -> Iterator[File]:
    for number, case in enumerate(_QUANT):
        generator = torch.Generator().manual_seed(7000 + number)
        grid = PlainGrid(
            case.bits,
            symmetric=case.kind != "asym",
            signed={"sym_signed": True, "sym_unsigned": False}.get(case.kind),
            log=case.log,
            rounding=case.rounding,
            argument=_ARGUMENTS[case.rounding],
            gradient_scaling=case.gradient_scaling,
        )
        yield f"quant_{number:02d}_{case.note or _quant_name(case)}", _quant_config(case, grid), _quant_tensors(case, grid, generator)


def _quant_name(case: Quant) -> str:
    channel, domain = "pc" if case.per_channel else "pt", "log" if case.log else "linear"
    return f"{case.kind}_{channel}_b{case.bits}_{case.rounding}_{domain}" + ("_gs" if case.gradient_scaling else "")


def _quant_config(case: Quant, grid: PlainGrid) -> dict:
    return {
        "op": "quant",
        "kind": case.kind,
        "n_bits": case.bits,
        "symmetric": grid.symmetric,
        "signed": grid.signed,
        "int_min": float(grid.limits[0]),
        "int_max": float(grid.limits[1]),
        "per_channel": case.per_channel,
        "scale_domain": "log" if case.log else "linear",
        "grad_scaling": case.gradient_scaling,
        "rounding": case.rounding,
        "rounding_arg": grid.argument,
        "range_given_as": case.given_as,
        "override": case.override,
        "eps": EPS,
    }


def _quant_tensors(case: Quant, grid: PlainGrid, generator: torch.Generator) -> dict[str, Tensor]:
    x_min, x_max = torch.tensor(case.x_min), torch.tensor(case.x_max)
    if case.per_channel:
        spread = 0.6 + torch.rand(case.shape[0], generator=generator)
        x_min, x_max = x_min * spread, x_max * spread
    elif case.given_as == "tensor1d":
        x_min, x_max = x_min[None], x_max[None]
    delta, zeta = grid.initial(x_min, x_max)
    if case.per_channel:
        axes = (-1, *[1] * (len(case.shape) - 1))
        delta, zeta = delta.reshape(axes), zeta if zeta is None else zeta.reshape(axes)
    x = _inputs(case, grid, delta, zeta, generator)
    delta = delta if "_delta" not in case.override else torch.full_like(delta, case.override["_delta"])
    zeta = zeta if "_zero_float" not in case.override else torch.full_like(zeta, case.override["_zero_float"])
    leaves = [t.requires_grad_() for t in (x, delta, zeta) if t is not None]
    g = torch.randn(case.shape, generator=generator)
    code, value = grid.quantize(x, delta, zeta)
    gradients = torch.autograd.grad(value, leaves, g)
    ends = grid.ends(delta, zeta)
    tensors = {"x": x, "g": g, "x_min": x_min, "x_max": x_max, "delta": delta, "scale": grid.scale(delta), "x_int": code}
    tensors |= {"x_quant": value, "grid_min": ends[0], "grid_max": ends[1], "grad_x": gradients[0], "grad_delta": gradients[1]}
    if zeta is not None:
        tensors |= {"zero_float": zeta, "zero_point": grid.zero_point(zeta), "grad_zero_float": gradients[2]}
    return tensors


def _inputs(case: Quant, grid: PlainGrid, delta: Tensor, zeta: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return latents over the grid and two steps beyond: on ties and limits; in the log domain away from ties (exp differs by machine)."""
    low, high = grid.limits
    positions = low - 2 + (high - low + 4) * torch.rand(case.shape, generator=generator)
    if case.log:
        nearest = positions.round()
        positions = nearest + (positions - nearest).clamp(-0.49, 0.49)
        assert zeta is None or float((zeta - zeta.floor() - 0.5).abs().min()) > 1e-3
    else:
        special = torch.tensor([low - 0.5, low, low + 0.5, low + 1.5, high - 1.5, high - 0.5, high, high + 0.5, low - 1, high + 1])
        positions.view(case.shape[0], -1)[..., :1] = special[torch.arange(case.shape[0]) % 10, None]
        positions.view(-1)[-10:] = special
    return ((positions - grid.zero_point(zeta)) * grid.scale(delta)).detach()


_SCHEDULES = (
    {"start": 0.08, "end": 0.02, "t_max": 60, "rel_decay_start": 0.25},
    {"start": 0.0, "end": 0.3, "t_max": 41, "rel_decay_start": 0.3},
    {"start": 5.0, "end": 0.5, "t_max": 20, "rel_decay_start": 0.0},
    {"start": 0.1, "end": 0.1, "t_max": 33, "rel_decay_start": 0.6},
)


def schedule_files() -> Iterator[File]:
    tensors = {}
    for index, case in enumerate(_SCHEDULES):
        steps, begin = case["t_max"], case["rel_decay_start"]
        values = [cosine(step, steps, case["start"], case["end"], begin) for step in range(steps + 6)]
        thresholds = [0.0 if step < begin * steps else value for step, value in enumerate(values)]
        for name, series in (
            ("schedule_t0_to_tmax_plus5", values),
            ("dampening_weight_iter1_to_tmax", values[1 : steps + 1]),
            ("freeze_threshold_iter1_to_tmax", thresholds[1 : steps + 1]),
        ):
            tensors[f"case{index}.{name}"] = torch.tensor(series, dtype=torch.float64)
    yield "schedule_00_cosine", {"op": "schedule", "cases": list(_SCHEDULES)}, tensors
