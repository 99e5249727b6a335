"""Golden end-to-end runs (docs/spec/cnn.md, 7.3, 7.4): calibration, twelve training steps with each method, re-estimation, evaluation.

The published trackers run in every forward pass; ours once per optimizer step. So the method is not attached here but driven by hand,
after each forward pass (docs/spec/cnn.md, 13). Between a forward pass and its backward nothing may change, so in training it is
driven after backward.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillbit.oscillation import Dampening, Freezing, Tracking
from stillbit.prepare import QuantConfig, calibrate, prepare, reestimate_batchnorm, scales, weights
from stillbit.quantizers import weight_sites
from stillbit.schedules import Cosine
from stillbit.training.optim import JointOptimizer
from tests.golden.case import Case, close, equal, floored
from tests.golden.network import ReducedMobileNetV2

# Of the largest entry: docs/spec/cnn.md, 11. Float32 runs sum in another order than the published ones, float64 runs differ by that in
# their last digits. The published engine averages its evaluation losses in float32 (12 there). Calibrated scales follow
# from the largest activation, a float32 sum, whose last digit is the processor's; the next candidate of the search is 1e-2 away.
_TOLERANCES = {
    "float32": {"loss": 1e-5, "evaluation loss": 1e-5, "logits": 1e-4, "state": 1e-4, "gradient": 1e-4, "scale": 1e-6},
    "float64": {"loss": 1e-9, "evaluation loss": 1e-7, "logits": 1e-9, "state": 1e-9, "gradient": 1e-9},
}


@dataclass
class Errors:
    """The largest error by kind, and the tolerances that were asserted."""

    dtype: str
    largest: dict[str, float] = field(default_factory=dict)

    def close(self, kind: str, given: Tensor, wanted: Tensor, name: str) -> None:
        error = close(given, wanted, _TOLERANCES[self.dtype][kind], name, floor=1e-3 if kind == "gradient" else 0.0)
        self.largest[f"{self.dtype} {kind}"] = max(self.largest.get(f"{self.dtype} {kind}", 0.0), error)


def float_model(common: Case) -> ReducedMobileNetV2:
    model = ReducedMobileNetV2(common.config["arch"])
    state = {name.removeprefix("fp."): tensor for name, tensor in common.tensors.items() if name.startswith("fp.")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model


def quantized_model(common: Case) -> ReducedMobileNetV2:
    model = float_model(common)
    bits = common.config["n_bits"]
    prepare(
        model, QuantConfig.parse(f"W{bits}A{common.config.get('n_bits_act') or bits}", published=True), example=common.tensors["held_x"]
    )
    calibrate(model, train_batches(common, torch.float32), batches=common.config["num_est_batches"])
    return model


def train_batches(common: Case, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    names = sorted(name for name in common.tensors if name.startswith("train_x_"))
    return [(common.tensors[name].to(dtype), common.tensors[name.replace("_x_", "_y_")]) for name in names]


def quantizer_tensor(model: nn.Module, common: Case, golden: str) -> Tensor:
    """Return the scale that the golden files call e.g. "features.1.conv.0.weight_quantizer.quantizer" (without the field's name)."""
    layer, kind = golden.removesuffix(".quantizer").rsplit(".", 1)
    ours = common.config["fused_to_fp"][layer]["weight"]
    return model.get_submodule(f"{ours}.{'input' if kind.startswith('activation') else 'weight'}_quantizer").scale


def golden_tensor(model: nn.Module, common: Case, golden: str) -> Tensor:
    """Return the parameter or buffer of a fused layer by its golden name."""
    if golden.endswith("._delta"):
        return quantizer_tensor(model, common, golden.removesuffix("._delta"))
    layer, name = golden.rsplit(".", 1)
    fused = common.config["fused_to_fp"][layer]
    if name in ("weight", "bias"):
        return getattr(model.get_submodule(fused["weight"]), name)
    ours = {"gamma": "weight", "beta": "bias"}.get(name, name)
    return getattr(model.get_submodule(fused["bn"]), ours)


def check_data(case: Case) -> dict[str, float]:
    errors = Errors("float32")
    model = float_model(case).eval()
    held = case.tensors["held_x"]
    with torch.no_grad():
        errors.close("logits", model(held), case.tensors["fp_logits_held"], "float logits")
    model = quantized_model(case).eval()
    for name in [name for name in case.tensors if name.startswith("init.")]:
        quantizer = name.removeprefix("init.").removesuffix(".delta")
        errors.close("scale", floored(quantizer_tensor(model, case, quantizer)), floored(case.tensors[name]), name)
    for name, wanted in case.config["quantizers"].items():
        ours = quantizer_tensor_owner(model, case, name)
        assert (ours.limits, ours.bits, ours.is_signed) == ((wanted["int_min"], wanted["int_max"]), wanted["n_bits"], wanted["signed"])
    with torch.no_grad():
        errors.close("logits", model(held), case.tensors["init_quant_logits_held_eval"], "calibrated logits")
    return errors.largest


def quantizer_tensor_owner(model: nn.Module, common: Case, golden: str) -> nn.Module:
    scale = quantizer_tensor(model, common, golden)
    return next(module for module in model.modules() if getattr(module, "scale", None) is scale)


class Run:
    """A golden run in progress: model, optimizer and the method driven by hand."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.common = case.sibling("e2e_data")
        self.dtype = getattr(torch, case.config["dtype"])
        self.model = self._calibrated_model().to(self.dtype)
        self.batches = train_batches(self.common, self.dtype)
        self.held = (self.common.tensors["held_x"].to(self.dtype), self.common.tensors["held_y"])
        self.errors = Errors(case.config["dtype"])
        self.step = 0
        sgd, adam = case.config["optimizer"], case.config["quant_optimizer"]
        self.optimizer = JointOptimizer(
            torch.optim.SGD(weights(self.model), lr=sgd["lr"], momentum=sgd["momentum"], weight_decay=sgd["weight_decay"]),
            torch.optim.Adam(scales(self.model), lr=adam["lr"]),
        )
        self.tracking = self._tracking()
        self.dampening = self._dampening()

    def _calibrated_model(self) -> ReducedMobileNetV2:
        """Return the model with the golden scales, which `check_data` compares: a digit in them would show in 12 float64 steps."""
        model = quantized_model(self.common)
        with torch.no_grad():
            for name in [name for name in self.common.tensors if name.startswith("init.")]:
                scale = quantizer_tensor(model, self.common, name.removeprefix("init.").removesuffix(".delta"))
                scale.copy_(self.common.tensors[name])
        return model

    def _tracking(self) -> Freezing | Tracking:
        freezing = self.case.config["freezing"]
        settings = {"ema_momentum": freezing["momentum"], "max_bits": freezing["max_bits"], "totals": True}
        if not freezing.get("active", True):
            return Tracking(self.model, **settings)
        steps = self.case.config.get("steps", 12)
        threshold = Cosine(freezing["start"], freezing["end"], steps, begin=freezing["rel_start"], before=0.0)
        return Freezing(self.model, threshold=threshold, use_ema=freezing["use_ema_x_int"], published=True, **settings)

    def _dampening(self) -> Dampening | None:
        setting = self.case.config.get("dampening")
        if setting is None:
            return None
        weight = Cosine(setting["start"], setting["end"], self.case.config["steps"], begin=setting["rel_start"])
        return Dampening(self.model, weight=weight, aggregation=setting["aggregation"])

    def train_step(self) -> tuple[float, float, Tensor]:
        """Take one step; return total loss, task loss and logits."""
        images, labels = self.batches[self.step % len(self.batches)]
        self.step += 1
        self.model.train()
        self.optimizer.zero_grad()
        logits = self.model(images)
        task = F.cross_entropy(logits, labels)
        task.backward()
        total = task.item()
        if self.dampening is not None:
            penalty = self.dampening.penalty(self.step)
            total += penalty.item()
            self.dampening.before_step(self.step)
        if self.step == 1:
            self._check_gradients()
        self.tracking.after_step(self.step)
        self.optimizer.step()
        return total, task.item(), logits

    def _check_gradients(self) -> None:
        for name, wanted in self.case.tensors.items():
            if name.startswith("grad_step1."):
                given = golden_tensor(self.model, self.common, name.removeprefix("grad_step1.")).grad
                self.errors.close("gradient", given, wanted, name)
        names = self.case.config.get("grad_norm_param_names", [])
        if names:
            norms = [golden_tensor(self.model, self.common, name).grad.norm() for name in names]
            self.errors.close("gradient", torch.stack(norms), self.case.tensors["grad_norm_step1_per_param"], "gradient norms")

    def evaluate(self) -> Tensor:
        """Return the held-out logits; the published tracker sees this pass too."""
        self.model.eval()
        with torch.no_grad():
            return self.model(self.held[0])

    def track_every_forward(self) -> torch.utils.hooks.RemovableHandle:
        return self.model.register_forward_hook(lambda *_: self.tracking.after_step(self.step))

    def frozen_counts(self) -> list[int]:
        sites = {site.name: site for site in weight_sites(self.model)}
        names = [self.layer(name) for name in self.case.config["tracked_layers"]]
        return [int((sites[name].quantizer.pins != -128).sum()) for name in names]

    def layer(self, golden: str) -> str:
        return str(self.common.config["fused_to_fp"][golden.removesuffix(".weight_quantizer")]["weight"])

    def per_layer(self, name: str) -> Tensor:
        state = self.tracking.state_dict()["sites"]
        return torch.stack([state[self.layer(layer)][name].double().sum() for layer in self.case.config["tracked_layers"]])

    def check_state(self, prefix: str) -> None:
        for name, wanted in self.case.tensors.items():
            if name.startswith(prefix):
                self.errors.close("state", golden_tensor(self.model, self.common, name.removeprefix(prefix)), wanted, name)


def check_e2e(case: Case) -> dict[str, float]:
    run = Run(case)
    history = list(_train(run))
    totals, tasks = (torch.tensor(series, dtype=torch.float64) for series in zip(*[(one[0], one[1]) for one in history], strict=True))
    run.errors.close("loss", totals, case.tensors["loss_per_step"], "loss_per_step")
    run.errors.close("loss", tasks, case.tensors["task_loss_per_step"], "task_loss_per_step")
    run.errors.close("logits", history[0][2], case.tensors["train_logits_step1"], "train_logits_step1")
    if case.config["freezing"]["active"]:
        equal(torch.tensor([one[3] for one in history]), case.tensors["frozen_count_per_step"], "frozen_count_per_step")
    equal(run.per_layer("total"), case.tensors["total_oscillation_per_layer"], "total_oscillation_per_layer")
    run.check_state("final.")
    handle = run.track_every_forward()
    run.errors.close("logits", run.evaluate(), case.tensors["final_logits_eval_ema_bn"], "final_logits_eval_ema_bn")
    reestimate_batchnorm(run.model, run.batches, batches=len(run.batches))
    run.check_state("reestimated.")
    run.errors.close("logits", run.evaluate(), case.tensors["final_logits_eval_reestimated_bn"], "final_logits_eval_reestimated_bn")
    handle.remove()
    return run.errors.largest


def _train(run: Run) -> Iterator[tuple[float, float, Tensor, list[int]]]:
    for _ in range(run.case.config["steps"]):
        total, task, logits = run.train_step()
        yield total, task, logits, run.frozen_counts()


def check_e2e_engine(case: Case) -> dict[str, float]:
    """Mode d: the whole loop, an evaluation with re-estimation after each epoch, the trackers live in all of it."""
    run = Run(case)
    config, epochs, per_epoch = case.config, case.config["epochs"], case.config["batches_per_epoch"]
    run.batches = run.batches[:per_epoch]
    before = F.cross_entropy(run.evaluate(), run.held[1])
    losses, frozen, evaluations, frequencies = [], [], [], []
    for epoch in range(epochs):
        run.optimizer.param_groups[0]["lr"] = config["optimizer"]["lr"] * (1 + math.cos(math.pi * epoch / epochs)) / 2
        for _ in range(per_epoch):
            losses.append(run.train_step()[0])
            frozen.append(run.frozen_counts())
        handle = run.track_every_forward()
        reestimate_batchnorm(run.model, run.batches, batches=50)
        evaluations.append(F.cross_entropy(run.evaluate(), run.held[1]).item())
        handle.remove()
        frequencies.append(run.per_layer("frequency"))
    close_to = run.errors.close
    close_to("evaluation loss", before, case.tensors["eval_loss_before_training"], "eval_loss_before_training")
    close_to("evaluation loss", torch.tensor(evaluations), case.tensors["eval_loss_per_epoch"], "eval_loss_per_epoch")
    close_to("loss", torch.tensor(losses, dtype=torch.float64), case.tensors["train_loss_per_step"], "train_loss_per_step")
    equal(torch.tensor(frozen), case.tensors["frozen_count_per_step"], "frozen_count_per_step")
    equal(run.per_layer("total"), case.tensors["total_oscillation_per_layer"], "total_oscillation_per_layer")
    close_to("state", torch.stack(frequencies), case.tensors["ema_oscillation_sum_per_layer_after_each_evaluation"], "frequencies")
    run.check_state("final.")
    close_to("logits", run.evaluate(), case.tensors["final_logits"], "final_logits")
    return run.errors.largest
