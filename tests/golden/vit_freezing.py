"""Golden iterative freezing on the ViT paper's LSQ (docs/spec/vit.md, 2.3): driven by hand, after each forward pass in training mode."""

import torch
from torch import Tensor, nn

from stillbit.modules import QuantLinear, adopt
from stillbit.oscillation import Freezing, Tracking
from stillbit.oscillation.tracking import Tracker
from stillbit.quantizers import LSQ
from tests.golden.case import Case, equal, within
from tests.golden.vit_quantizer import place_scale

FREE = -128  # a pin that pins nothing
_FLOAT32 = {"atol": 2e-6, "rtol": 1e-5}  # docs/spec/vit.md, 10


def check_iterative_freezing(case: Case) -> dict[str, float]:
    """Replay a weight's recorded walk: values, gradients and state at every step, the last ones in evaluation mode."""
    layer = _layer(case)
    method, tracker = _method(case, nn.Sequential(layer))
    errors: dict[str, float] = {}
    for index, weight in enumerate(case.tensors["x"]):
        found = _forward_backward(layer, weight, case.tensors["g"][index])
        if index < case.config["steps_train"]:
            method.after_step(index + 1)
        for name, given in found.items():
            error = within(given, case.tensors[name][index], f"{name} {index}", **_FLOAT32)
            errors[name] = max(errors.get(name, 0.0), error)
        for name, given in _state(tracker, layer).items():
            if name in case.tensors:
                equal(given, case.tensors[name][index], f"{name} {index}")
    frozen = int((layer.weight_quantizer.pins != FREE).sum()) if case.config["freeze_threshold"] > 0 else -1
    assert frozen == case.config["n_frozen_end"]
    return errors


def _layer(case: Case) -> nn.Module:
    _, rows, columns = case.tensors["x"].shape
    scale_shape = (rows, 1) if case.config["per_channel"] else (1,)
    quantizer = LSQ(case.config["bits"], scale_shape, ste_range="position", scale_gradient="lsq", published=True)
    quantizer.mark_calibrated(signed=True)
    place_scale(quantizer, case.tensors["s"])
    linear = nn.Linear(columns, rows, bias=False)
    return adopt(QuantLinear, linear, weight_quantizer=quantizer, input_quantizer=nn.Identity())


def _method(case: Case, model: nn.Module) -> tuple[Freezing | Tracking, Tracker]:
    threshold, momentum = case.config["freeze_threshold"], case.config["momentum"]
    method: Freezing | Tracking
    if threshold > 0:
        method = Freezing(model, threshold=threshold, ema_momentum=momentum, published=True, totals=True)
    else:
        method = Tracking(model, ema_momentum=momentum, totals=True)
    return method, method.tracker


def _forward_backward(layer: nn.Module, weight: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        layer.weight.copy_(weight)
    layer.zero_grad()
    output = layer.weight_quantizer(layer.weight)
    output.backward(upstream)
    return {"y": output.detach(), "dx": layer.weight.grad, "ds": layer.weight_quantizer.scale.grad}


def _state(tracker: Tracker, layer: nn.Module) -> dict[str, Tensor]:
    history, pins = tracker.histories["0"], layer.weight_quantizer.pins
    state = {
        "ema_oscillation": history.frequency,
        "total_oscillation": history.total,
        "prev_switch_dir": history.direction,
    }
    if pins is None:
        return state
    assert history.average_code is not None
    return state | {
        "ema_x_int": history.average_code,
        "frozen": pins != FREE,
        "frozen_x_int": torch.where(pins == FREE, 0, pins),
    }
