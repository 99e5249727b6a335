"""Golden quantizers: one forward and backward pass of a public quantizer at a time (docs/spec/cnn.md, 1 and 11).

Every case runs with `published=True`: the numbers are the published code's. Wherever `published` should make no difference (`_is_quirk`)
the case runs with the default too, and must meet the same numbers.
"""

from typing import Any

import torch

from stillbit.numerics import ROUNDINGS, Rounding, grid_limits
from stillbit.quantizers import LSQ
from tests.golden.case import Case, close, equal, floored

_GRADIENT = 1e-6  # of the largest entry: float32, one rounding apart
_PARAMETER_GRADIENT = 1e-4  # of the largest entry: float32 sums that cancel, in another order
_LOGARITHM = 2e-7  # relative: exp and log are not correctly rounded, so other machines differ in the last bit
_PARAMETERS = {"_delta": "scale", "_zero_float": "zero_point"}  # the published names in `override`


def check_quant(case: Case) -> dict[str, float]:
    """Replay a case."""
    errors = _check(case, published=True)
    if not _is_quirk(case):
        _check(case, published=False)
    return errors


def _is_quirk(case: Case) -> bool:
    """Whether a published quirk shows: a scale below its floor, or the two uses of a zero point under EWGS."""
    config = case.config
    below_floor = config["scale_domain"] == "linear" and bool((case.tensors["delta"] < config["eps"]).any())
    return below_floor or (config["rounding"] == "ewgs" and not config["symmetric"])


def _check(case: Case, *, published: bool) -> dict[str, float]:
    wanted = case.tensors
    quantizer = _quantizer(case, published=published)
    calibrated = quantizer.scale.detach().clone()
    with torch.no_grad():  # the published gradients belong to the published scale, which may lie below our floor
        quantizer.scale.copy_(wanted["delta"])
    x = wanted["x"].clone().requires_grad_()
    output = quantizer(x)
    output.backward(wanted["g"])
    grid = quantizer.grid(x)
    grid_min, grid_max = grid_limits(grid)
    real = {"scale": grid.scale, "x_quant": output, "grid_min": grid_min, "grid_max": grid_max}
    whole = {"x_int": quantizer.code(x)}
    gradients = {"grad_delta": quantizer.scale.grad}
    if quantizer.zero_point is not None:
        whole |= {"zero_float": quantizer.zero_point, "zero_point": grid.zero_point}
        gradients["grad_zero_float"] = quantizer.zero_point.grad
    tolerance = _LOGARITHM if quantizer.log_scale else 0.0
    errors = {name: equal(tensor, wanted[name], name) for name, tensor in whole.items()}
    ends = [t if quantizer.log_scale else floored(t) for t in (calibrated, wanted["delta"])]
    errors["delta"] = close(*ends, tolerance, "delta")  # type: ignore[call-arg]
    errors |= {name: close(tensor, wanted[name], tolerance, name) for name, tensor in real.items()}
    errors["grad_x"] = close(x.grad, wanted["grad_x"], _GRADIENT, "grad_x")
    return errors | {name: close(tensor, wanted[name], _PARAMETER_GRADIENT, name) for name, tensor in gradients.items()}


def _quantizer(case: Case, *, published: bool) -> LSQ:
    """Build the case's quantizer and give it its range, in the form that the published one got, then the overrides."""
    config, delta = case.config, case.tensors["delta"]
    scale_shape = tuple(delta.shape) if config["per_channel"] else (1,)
    quantizer = LSQ(
        config["n_bits"],
        scale_shape,
        symmetric=config["symmetric"],
        rounding=_rounding(config),
        log_scale=config["scale_domain"] == "log",
        scale_gradient="lsq" if config["grad_scaling"] else "none",
        published=published,
    )
    given_as = {"float": float, "tensor0d": lambda end: end.reshape(()), "tensor1d": lambda end: end.reshape(-1)}[config["range_given_as"]]
    quantizer.set_range(given_as(case.tensors["x_min"]), given_as(case.tensors["x_max"]))
    with torch.no_grad():
        for name, value in config["override"].items():
            getattr(quantizer, _PARAMETERS[name]).fill_(value)
    assert quantizer.limits == (config["int_min"], config["int_max"])
    assert config["signed"] in (None, quantizer.is_signed)
    return quantizer


def _rounding(config: dict[str, Any]) -> Rounding:
    kind, argument = ROUNDINGS[config["rounding"]], config["rounding_arg"]
    return kind() if argument is None else kind(argument)  # type: ignore[call-arg]
