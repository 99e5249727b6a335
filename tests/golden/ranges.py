"""Golden ranges: drives an estimator and its quantizer over a case's batches, as calibration does (docs/spec/cnn.md, 2 and 11)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillbit.numerics.ranges import MSEGrid, RangeConfig, RangeEstimator
from stillbit.quantizers import LSQ, FixedRange
from tests.golden.case import Case, floored

LOSS_TABLE = 1e-5  # relative; published sums run in float32, ours in float64
ACHIEVED_LOSS = 1.01  # at most this factor above the published search, whose path float32 rounding decides


@dataclass(frozen=True)
class Tolerance:
    """Absolute error allowed in ranges, and relative error in what follows from them; zero demands equality."""

    ends: float = 0.0
    derived: float = 0.0
    reason: str = "the same float operations"


def tolerance(config: dict[str, Any]) -> Tolerance:
    if config.get("opt_method") == "golden_section":
        # Derived values can move by the ends' share, and a latent on a rounding boundary by a whole grid step.
        return Tolerance(1.5e-5, 1.0, "the rounding of float32 sums, which is the processor's, decides where the search ends")
    if config.get("percentile"):
        return Tolerance(0.0, 2.4e-7, "published ranges stay float64, ours are cast: scales move by two roundings of float32")
    return Tolerance()


def check_range(case: Case) -> dict[str, float]:
    """Replay a case."""
    config = case.config
    estimator = build_estimator(config)
    errors: dict[str, float] = {}
    for index in range(config["n_batches"]):
        x_min, x_max = estimator.update(case.tensors[f"batch_{index}"])
        for kind in (LSQ, FixedRange):
            quantizer = kind(config["n_bits"], scale_shape(config, case.tensors["batch_0"]), symmetric=config["symmetric"])
            quantizer.set_range(x_min, x_max)
            check_batch(case, index, {"xmin": x_min, "xmax": x_max}, quantizer, errors)
    if "loss_array" in case.tensors:
        assert isinstance(estimator, MSEGrid)
        errors["loss table (relative)"] = check_loss_table(estimator, case.tensors["loss_array"])
    return errors


def check_batch(case: Case, index: int, ends: dict[str, Tensor], quantizer: LSQ | FixedRange, errors: dict[str, float]) -> None:
    x = case.tensors[f"batch_{index}"]
    found = ends | {"delta": floored(quantizer.scale), "out": quantizer(x).detach()}
    if isinstance(quantizer, LSQ) and quantizer.zero_point is not None:
        found["zero_float"] = quantizer.zero_point.detach()  # a fixed quantizer rounds it
    if is_chaotic(case.config):
        excess = check_achieved_loss(x, found["out"], case.tensors[f"loss_at_result_{index}"], case.config)
        record(errors, "loss achieved (relative)", excess)
        return
    for name, ours in found.items():
        golden = case.tensors[f"{name}_{index}"].float().reshape(ours.shape)
        golden = floored(golden) if name == "delta" else golden
        compare(name, ours, golden, tolerance(case.config), errors)


def build_estimator(config: dict[str, Any]) -> RangeEstimator:
    """Make the estimator that a case's configuration describes."""
    if config["estimator"] == "MSE":
        ranges = RangeConfig(
            estimator="mse",
            search=config["opt_method"],
            candidates=config["num_candidates"],
            margin=config["range_margin"],
        )
    elif config["estimator"] == "running_minmax":
        ranges = RangeConfig(estimator="running_minmax", momentum=config["momentum"])
    else:
        ranges = RangeConfig(estimator="current_minmax", percentile=config["percentile"])
    channel_axis = 0 if config["per_channel"] else None
    return ranges.build(symmetric=config["symmetric"], bits=config["n_bits"], channel_axis=channel_axis)


def scale_shape(config: dict[str, Any], x: Tensor) -> tuple[int, ...]:
    return (len(x), *[1] * (x.dim() - 1)) if config["per_channel"] else (1,)


def is_chaotic(config: dict[str, Any]) -> bool:
    """Whether only the achieved loss can be compared: the loss is piecewise constant in the shift (docs/spec/cnn.md, 2.4)."""
    return config.get("opt_method") == "golden_section" and not config["symmetric"] and not config["one_sided"]


def compare(name: str, ours: Tensor, golden: Tensor, allowed: Tolerance, errors: dict[str, float]) -> None:
    error = float((ours - golden).abs().max())
    bound = allowed.ends if name in ("xmin", "xmax") else allowed.derived * float(golden.abs().max())
    assert error <= bound, f"{name}: error {error:.3g}, allowed {bound:.3g} ({allowed.reason})"
    record(errors, name, error)


def record(errors: dict[str, float], name: str, error: float) -> None:
    errors[name] = max(errors.get(name, 0.0), error)


def check_achieved_loss(x: Tensor, out: Tensor, published: Tensor, config: dict[str, Any]) -> float:
    errors = (x.double() - out.double()).square()
    achieved = errors.flatten(1).sum(1) if config["per_channel"] else errors.sum()[None]
    worst = float((achieved / published.double()).max())
    assert worst <= ACHIEVED_LOSS, f"the achieved loss is {worst:.3f} times the published one"
    return worst - 1.0


def check_loss_table(estimator: MSEGrid, published: Tensor) -> float:
    assert estimator.losses is not None
    ours, golden = torch.from_numpy(estimator.losses), published[:, 1:]  # entry 0 is a placeholder, infinite
    assert ours.shape == golden.shape
    error = float(((ours - golden) / golden).abs().max())
    assert error <= LOSS_TABLE, f"loss table: relative error {error:.3g}, allowed {LOSS_TABLE}"
    axes = (len(golden), -1)
    assert torch.equal(ours.reshape(axes).argmin(1), golden.reshape(axes).argmin(1))
    return error
