"""Golden annealing (docs/spec/vit.md, 5): masks, the query-key quantizer, and training steps with AdamW."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillbit.modules import QuantLinear, adopt
from stillbit.modules.shift import Shifted
from stillbit.numerics.gate import Gate
from stillbit.numerics.prologue import PLAIN, Prologue
from stillbit.oscillation import Annealing
from stillbit.quantizers import LSQ, StatsQ
from tests.golden.case import Case, equal, within
from tests.golden.vit_quantizer import place_scale

_FLOAT32 = {"atol": 2e-6, "rtol": 1e-5}  # docs/spec/vit.md, 10
_FLOAT64 = {"atol": 1e-9, "rtol": 1e-9}  # docs/spec/vit.md, 10
_PARAMETERS = {  # ours by the published names
    "weight": "weight",
    "bias": "bias",
    "input_quant_fn.s": "input_quantizer.quantizer.scale",
    "move_b4.bias": "input_quantizer.before",
    "move_aft.bias": "input_quantizer.after",
}


def check_cga_mask(case: Case) -> dict[str, float]:
    """Compare the mask by the published rule; the default one differs only where a boundary has no code beyond it."""
    config, w = case.config, case.tensors["w"]
    if config["boundary_range"] > 0.5:
        with pytest.raises(
            ValueError, match=f"boundary_range is {config['boundary_range']}"
        ):  # published, bands overlap and the mask holds -1
            Gate(config["boundary_range"])
        return {"refused": 0.0}
    quantizer = StatsQ(config["bits"], (len(w), 1))
    frozen = case.tensors["freeze"].bool()
    quantizer.prologue = Prologue(gate=Gate(config["boundary_range"], published=True))
    error = equal(~quantizer.free(w), frozen, "mask")
    quantizer.prologue = Prologue(gate=Gate(config["boundary_range"]))
    codes = quantizer.code(w)
    whole = (float(codes.min()), float(codes.max())) == quantizer.limits
    if whole:
        equal(~quantizer.free(w), frozen, "mask, default rule")
    return {"mask": error}


def check_cga_qk_quantizer(case: Case) -> dict[str, float]:
    """Compare with StatsQ without a gate, in both modes: the published gate of products is none (docs/spec/vit.md, 5.3)."""
    tensors, errors = case.tensors, {}
    quantizer = StatsQ(case.config["bits"], tuple(tensors["scale"].shape))
    for mode in ("train", "eval", "plain_statsq"):
        quantizer.train(mode != "eval")
        x = tensors["x"].clone().requires_grad_()
        output = quantizer(x)
        output.backward(tensors["g"])
        errors[f"y {mode}"] = within(output, tensors[f"y_{mode}"], f"y {mode}", **_FLOAT32)
        errors[f"dx {mode}"] = equal(x.grad, tensors[f"dx_{mode}"], f"dx {mode}")
    return errors


def check_cga_optimizer_step(case: Case) -> dict[str, float]:
    """Replay plain steps, then annealed ones: gradients, mask, moments and weights of each."""
    run = _Run(case)
    errors: dict[str, float] = {}
    for index in range(case.config["steps_plain"] + case.config["steps_cga"]):
        for name, given in run.step(index).items():
            wanted = case.tensors["losses"][index] if name == "loss" else case.tensors[f"step{index}.{name}"]
            errors[name] = max(errors.get(name, 0.0), within(given, wanted, f"{name} {index}", **_FLOAT64))
    for name, ours in _PARAMETERS.items():
        parameter = run.layer.get_parameter(ours)
        errors[f"final {name}"] = within(parameter, case.tensors[f"final.{name}"], f"final {name}", **_FLOAT64)
    return errors


class _Run:
    """A quantized linear layer on tokens, of which the first is the output; soft and hard cross entropy; AdamW."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.layer = _layer(case)
        self.parameters = list(self.layer.parameters())
        config, weight = case.config, self.layer.weight
        others = [parameter for parameter in self.parameters if parameter is not weight]
        groups = [{"params": [weight], "weight_decay": config["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config["lr_pre"], betas=tuple(config["betas"]), eps=config["eps"])
        self.after_optimizer = weight.detach()
        self.optimizer.register_step_post_hook(self._note)  # before the method's, which puts weights back
        begin = config["steps_plain"] + 1
        Annealing(nn.Sequential(self.layer), boundary_range=config["boundary_range"], begin=begin, published=True).attach(self.optimizer)

    def _note(self, *_: object) -> None:
        self.after_optimizer = self.layer.weight.detach().clone()

    def step(self, index: int) -> dict[str, Tensor]:
        """Take a step and return what the case holds of it."""
        config, weight, quantizer = self.case.config, self.layer.weight, self.layer.weight_quantizer
        annealed = index >= config["steps_plain"]
        for group in self.optimizer.param_groups:
            group["lr"] = config["lr_cga"] if annealed else config["lr_pre"]
        prologue, quantizer.prologue = quantizer.prologue, PLAIN
        (raw,) = torch.autograd.grad(self._loss(index), weight)
        quantizer.prologue = prologue
        self.optimizer.zero_grad()
        found = {"weight_before": weight.detach().clone(), "grad_raw": raw}
        if annealed:
            found["freeze"] = (~quantizer.free(weight)).double()
        found["loss"] = self._loss(index)
        found["loss"].backward()
        if config["clip_grad"] is not None:
            nn.utils.clip_grad_norm_(self.parameters, config["clip_grad"])
        self.optimizer.step()
        found |= {"grad_used": weight.grad.clone(), "weight_after_optimizer": self.after_optimizer}
        if annealed:
            found["weight_after"] = weight.detach().clone()
        return found | {name: self.optimizer.state[weight][name].clone() for name in ("exp_avg", "exp_avg_sq")}

    def _loss(self, index: int) -> Tensor:
        output = self.layer(self.case.tensors[f"x{index}"])[:, 0]
        teacher = self.case.tensors[f"teacher_logits{index}"].softmax(-1)
        return F.cross_entropy(output, teacher) + F.cross_entropy(output, self.case.tensors[f"target{index}"].long())


def _layer(case: Case) -> nn.Module:
    config = case.config
    inputs, outputs, tokens = config["din"], config["dout"], config["tokens"]
    activation = LSQ(config["act_bits"], (1, tokens, 1), ste_range="position", scale_gradient="lsq", published=True)
    activation.mark_calibrated(signed=True)
    layer = adopt(
        QuantLinear,
        nn.Linear(inputs, outputs),
        weight_quantizer=StatsQ(config["bits"], (outputs, 1)),
        input_quantizer=Shifted(activation, (inputs,), (inputs,)),
    ).double()
    place_scale(activation, case.tensors["init.input_quant_fn.s"])
    with torch.no_grad():
        for name, ours in _PARAMETERS.items():
            if not name.endswith(".s"):
                layer.get_parameter(ours).copy_(case.tensors[f"init.{name}"])
    return layer
