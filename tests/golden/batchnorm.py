"""Golden batch-norm re-estimation (docs/spec/cnn.md, 5)."""

from typing import Any

import torch
from torch import Tensor, nn

from stillbit.oscillation import Freezing
from stillbit.prepare import QuantConfig, prepare, reestimate_batchnorm
from stillbit.quantizers import LSQ, Quantizer, weight_sites
from tests.golden.case import Case, close, equal

_ACTIVATIONS = {"ReLU": nn.ReLU, "ReLU6": nn.ReLU6, None: nn.Identity}
_BN_TOLERANCE = 1e-6  # float32 sums over a batch in another order


class Network(nn.Module):
    """The golden case's stack: conv or linear, batch norm, activation."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.body = nn.ModuleList(_block(case, index, layer) for index, layer in enumerate(case.config["layers"]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.body:
            x = block(x)
        return x


def _block(case: Case, index: int, layer: dict[str, Any]) -> nn.Sequential:
    stored = {name.split(".", 1)[1]: t for name, t in case.tensors.items() if name.startswith(f"layer{index}.")}
    weight = stored["weight"]
    multiply: nn.Module
    bias = _kept_bias(case, index)
    if layer["type"] == "linear":
        multiply = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        norm = nn.BatchNorm1d(weight.shape[0], eps=layer["eps"])
    else:
        inputs = weight.shape[1] * layer["groups"]
        settings = {key: layer[key] for key in ("stride", "padding", "groups")}
        multiply = nn.Conv2d(inputs, weight.shape[0], weight.shape[2], bias=False, **settings)
        norm = nn.BatchNorm2d(weight.shape[0], eps=layer["eps"])
    with torch.no_grad():
        multiply.weight.copy_(weight)
        norm.weight.copy_(stored["gamma"])
        norm.bias.copy_(stored["beta"])
        norm.running_mean.copy_(stored["running_mean_init"])
        norm.running_var.copy_(stored["running_var_init"])
        if bias is not None:  # the published layer folds it into running_mean, ours keeps it (docs/spec/cnn.md, 13)
            multiply.bias.copy_(bias)
            norm.running_mean.copy_(case.tensors["unfused_first_running_mean"])
    return nn.Sequential(multiply, norm, _ACTIVATIONS[layer["act"]]())


def _kept_bias(case: Case, index: int) -> Tensor | None:
    return case.tensors.get("unfused_first_bias") if index == 0 else None


def _quantize(network: Network, case: Case) -> None:
    bits = case.config["layers"][0]["w_bits"]
    prepare(network, QuantConfig.parse(f"W{bits}A{bits}"), example=case.tensors["batch_0"])
    for index, (layer, block) in enumerate(zip(case.config["layers"], network.body, strict=True)):
        block[0].weight_quantizer = _with_scale(layer["w_bits"], case.tensors[f"layer{index}.delta_w"], signed=layer["w_signed"])
        block[0].weight_quantizer.allocate_pins(block[0].weight.shape)
        if layer["a_bits"]:
            block[0].input_quantizer = _with_scale(layer["a_bits"], case.tensors[f"layer{index}.delta_in"], signed=layer["a_signed"])


def _with_scale(bits: int, scale: Tensor, *, signed: bool) -> Quantizer:
    quantizer = LSQ(bits, tuple(scale.shape) or (1,))
    quantizer.load_state_dict({"scale": scale, "signed": torch.tensor(signed), "calibrated": torch.tensor(True)})
    return quantizer


def _freezing(network: Network, case: Case) -> Freezing:
    """A method in the state that the golden case's trackers had before re-estimation."""
    momentum = next(iter(case.config["tracker"].values()))["momentum"]
    freezing = Freezing(network, threshold=1.0, ema_momentum=momentum, published=True, totals=True)
    freezing.after_step(1)
    state = freezing.state_dict()
    for site in weight_sites(network):
        stored = _tracker_state(case, site.name, "before")
        tensors = state["sites"][site.name]
        for name, golden in _HISTORY.items():
            tensors[name] = stored[golden].to(tensors[name].dtype)
        pinned = stored["prev_x_int"].to(torch.int8)
        site.quantizer.pins.copy_(torch.where(stored["frozen"], pinned, -128))
    freezing.load_state_dict(state)
    return freezing


_HISTORY = {
    "previous": "prev_x_int",
    "direction": "prev_switch_dir",
    "frequency": "ema_oscillation",
    "total": "total_oscillation",
    "average_code": "ema_x_int",
}


def _tracker_state(case: Case, site: str, when: str) -> dict[str, Tensor]:
    layer = site.removesuffix(".0")
    prefix, suffix = f"tracker.{layer}.weight_quantizer.", f"_{when}"
    return {n.removeprefix(prefix).removesuffix(suffix): t for n, t in case.tensors.items() if n.startswith(prefix) and n.endswith(suffix)}


def check_bn(case: Case) -> dict[str, float]:
    network = Network(case)
    if case.config["quantized"]:
        _quantize(network, case)
    network.eval()
    batches = [(case.tensors[f"batch_{index}"],) for index in range(case.config["n_batches_given"])]
    errors: dict[str, float] = {"output before": close(_output(network, batches), case.tensors["eval_out_before"], 1e-5, "output before")}
    freezing = _freezing(network, case) if case.config["tracker"] else None
    if freezing is not None:  # the published trackers run in every forward pass (docs/spec/cnn.md, 13): here by hand
        handle = network.register_forward_hook(lambda *_: freezing.after_step(1))
    passes = [(batches, "_pass_1" if case.config["second_pass_batches"] else "_final")]
    if case.config["second_pass_batches"]:
        passes.append((batches[: case.config["second_pass_batches"]], "_final"))
    for given, suffix in passes:
        reestimate_batchnorm(network, given, batches=case.config["num_batches"])
        for name, error in _check_statistics(network, case, suffix).items():
            errors[name] = max(errors.get(name, 0.0), error)
    if freezing is not None:
        handle.remove()
    errors["output after"] = close(_output(network, batches), case.tensors["eval_out_after"], 1e-5, "output after")
    if freezing is not None:
        errors["tracker"] = _check_tracker(network, freezing, case)
    return errors


def _output(network: Network, batches: list[tuple[Tensor]]) -> Tensor:
    with torch.no_grad():
        return network(batches[0][0])


def _check_statistics(network: Network, case: Case, suffix: str) -> dict[str, float]:
    errors = {}
    for index, block in enumerate(network.body):
        mean, var = (case.tensors[f"layer{index}.running_{kind}{suffix}"] for kind in ("mean", "var"))
        bias = _kept_bias(case, index)
        given = block[1].running_mean if bias is None else block[1].running_mean - bias
        assert block[1].momentum == case.config["bn_momentum_restored"]
        errors["mean"] = close(given, mean, _BN_TOLERANCE, f"layer {index} mean", floor=1.0)
        errors["var"] = close(block[1].running_var, var, _BN_TOLERANCE, f"layer {index} var", floor=1.0)
    return errors


def _check_tracker(network: Network, freezing: Freezing, case: Case) -> float:
    state = freezing.state_dict()
    for site in weight_sites(network):
        stored = _tracker_state(case, site.name, "after")
        equal(site.quantizer.pins != -128, stored["frozen"], f"{site.name} frozen")
        for name, golden in _HISTORY.items():
            equal(state["sites"][site.name][name], stored[golden], f"{site.name} {name}")
    return 0.0
