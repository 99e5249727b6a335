"""Golden tracking, freezing and dampening (docs/spec/cnn.md, 3 and 4): methods are driven by hand, after each forward pass."""

import torch
from torch import Tensor, nn

from stillbit.modules import QuantConv2d, QuantLinear, adopt
from stillbit.oscillation import Dampening, Freezing
from stillbit.quantizers import LSQ
from tests.golden.case import Case, close, equal

FREE = -128  # a pin that pins nothing
_GRADIENT = 1e-6  # of the largest entry: float32, one rounding apart
_SCALE_GRADIENT = 1e-4  # of the largest entry: float32 sums that cancel, in another order


def check_tracker(case: Case) -> dict[str, float]:
    """Replay a weight's recorded walk: codes, pins, histories and averages at every step or checkpoint."""
    thresholds = case.tensors["threshold_all"]
    layer = _layer(case, case.tensors["weights"][0], case.tensors["delta"])
    freezing = Freezing(
        nn.Sequential(layer),
        threshold=lambda step: float(thresholds[int(step) - 1]),
        ema_momentum=case.config["momentum"],
        use_ema=case.config["use_ema_x_int"],
        published=True,
        totals=True,
    )
    errors: dict[str, float] = {}
    total = torch.tensor(0)
    for index in range(case.config["steps"]):
        _place(case, layer, index)
        output = _forward_backward(layer)
        equal(layer.weight_quantizer.code(layer.weight), case.tensors["x_int_all"][index], f"codes {index}")
        if not case.tensors["skip_tracking_all"][index]:
            freezing.after_step(index + 1)
        oscillated = freezing.tracker.histories["0"].total.sum() - total
        if not case.tensors["skip_tracking_all"][index]:
            equal(oscillated, case.tensors["oscillated_sum_all"][index], f"oscillated {index}")
        total += oscillated
        equal((layer.weight_quantizer.pins != FREE).sum(), case.tensors["frozen_count_all"][index], f"frozen {index}")
        for name, error in _check_checkpoint(case, f"ck{index:03d}.", layer, freezing, output).items():
            errors[name] = max(errors.get(name, 0.0), error)
    return errors


def _check_checkpoint(case: Case, prefix: str, layer: nn.Module, freezing: Freezing, output: Tensor) -> dict[str, float]:
    wanted = {name.removeprefix(prefix): tensor for name, tensor in case.tensors.items() if name.startswith(prefix)}
    if not wanted:
        return {}
    history, pins = freezing.tracker.histories["0"], layer.weight_quantizer.pins
    exact = {
        "x_quant": output,
        "prev_x_int": history.previous,
        "prev_switch_dir": history.direction,
        "ema_oscillation": history.frequency,
        "total_oscillation": history.total,
        "ema_x_int": history.average_code,
        "frozen": pins != FREE,
        "frozen_x_int": torch.where(pins == FREE, 0, pins),
    }
    assert ("ema_x_int" in wanted) == (history.average_code is not None), prefix
    errors = {name: equal(given, wanted[name], prefix + name) for name, given in exact.items() if name in wanted}
    errors["grad_w"] = close(layer.weight.grad, wanted["grad_w"], _GRADIENT, prefix + "grad_w")
    errors["grad_delta"] = close(layer.weight_quantizer.scale.grad, wanted["grad_delta"], _SCALE_GRADIENT, prefix + "grad_delta")
    return errors


def check_damp(case: Case) -> dict[str, float]:
    """Compare one layer's loss and gradients, from `penalty` and, for the weight, from the closed form too."""
    layer = _layer(case, case.tensors["weight"], case.tensors["delta"])
    model, quantizer = nn.Sequential(layer), layer.weight_quantizer
    if case.config["frozen"]:
        quantizer.allocate_pins(layer.weight.shape)
        quantizer.pins.copy_(torch.where(case.tensors["frozen"], case.tensors["frozen_x_int"], FREE))
    method = Dampening(model, weight=1.0, aggregation=case.config["aggregation"])
    loss = method.penalty()
    loss.backward()
    errors = {
        "target": equal(quantizer(layer.weight), case.tensors["target"], "target"),
        "loss": close(loss, case.tensors["loss"], _GRADIENT, "loss"),
        "grad_weight": close(layer.weight.grad, case.tensors["grad_weight"], _GRADIENT, "grad_weight"),
        "grad_delta": close(quantizer.scale.grad, case.tensors["grad_delta"], _SCALE_GRADIENT, "grad_delta"),
    }
    if "grad_zero_float" in case.tensors:
        errors["grad_zero_float"] = equal(quantizer.zero_point.grad, case.tensors["grad_zero_float"], "grad_zero_float")
    layer.weight.grad = None
    method.before_step(1)
    errors["grad_weight, closed form"] = close(layer.weight.grad, case.tensors["grad_weight"], _GRADIENT, "closed form")
    return errors


def check_damp_total(case: Case) -> dict[str, float]:
    """Compare the sum over a model's layers, 8-bit ones included."""
    model = nn.Sequential()
    for name, bits in case.config["n_bits"].items():
        stored = {key.split(".")[1]: t for key, t in case.tensors.items() if key.startswith(f"layer{name}.")}
        model.add_module(name, _quantized(stored["weight"], _signed_lsq(bits, stored["delta"])))
    errors: dict[str, float] = {}
    for aggregation in ("sum", "mean", "kernel_mean"):
        method = Dampening(model, weight=case.config["weighting"], aggregation=aggregation)
        name = f"total_{aggregation}"
        errors[name] = close(method.penalty(), case.tensors[name], _GRADIENT, name)
        method.before_step(1)
        for layer, module in model.named_children():
            name = f"grad_weight_{aggregation}"
            error = close(module.weight.grad, case.tensors[f"layer{layer}.{name}"], _GRADIENT, f"layer{layer}.{name}")
            errors[name] = max(errors.get(name, 0.0), error)
            module.weight.grad = None
    return errors


def _layer(case: Case, weight: Tensor, scale: Tensor) -> nn.Module:
    config = case.config
    quantizer = LSQ(
        config["n_bits"],
        tuple(scale.shape) or (1,),
        symmetric=config["symmetric"],
        log_scale=config.get("scale_domain") == "log",
        scale_gradient="lsq" if config.get("grad_scaling") else "none",
        published=True,
    )
    quantizer.mark_calibrated(signed=config["int_min"] < 0)
    with torch.no_grad():
        quantizer.scale.copy_(scale)
        if quantizer.zero_point is not None:
            quantizer.zero_point.copy_(case.tensors["zero_float"])
    return _quantized(weight, quantizer)


def _signed_lsq(bits: int, scale: Tensor) -> LSQ:
    quantizer = LSQ(bits)
    quantizer.mark_calibrated(signed=True)
    with torch.no_grad():
        quantizer.scale.copy_(scale)
    return quantizer


def _quantized(weight: Tensor, quantizer: LSQ) -> nn.Module:
    """Return a quantized layer around a weight; one without axes of its own becomes the row of a linear layer."""
    weight = weight if weight.dim() > 1 else weight[None]
    outputs, inputs, *kernel = weight.shape
    if kernel:
        conv = nn.Conv2d(inputs, outputs, tuple(kernel), bias=False)
        layer: nn.Module = adopt(QuantConv2d, conv, weight_quantizer=quantizer, input_quantizer=None)
    else:
        layer = adopt(QuantLinear, nn.Linear(inputs, outputs, bias=False), weight_quantizer=quantizer, input_quantizer=None)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _place(case: Case, layer: nn.Module, index: int) -> None:
    """Put the recorded weight, and scale, of a step."""
    with torch.no_grad():
        layer.weight.copy_(case.tensors["weights"][index].reshape(layer.weight.shape))
        if "delta_per_step" in case.tensors:
            layer.weight_quantizer.scale.copy_(case.tensors["delta_per_step"][index])


def _forward_backward(layer: nn.Module) -> Tensor:
    """Return the quantized weight; its gradient is 1 everywhere."""
    layer.zero_grad()
    output = layer.weight_quantizer(layer.weight)
    output.sum().backward()
    return output.detach()
