"""Golden end-to-end runs of our own: a small MobileNetV2 in plain torch, calibrated, trained and re-estimated (docs/spec/cnn.md, 7.3, 7.4).

Only the float network's skeleton and torch's optimizers are shared with what is tested; every quantizer, range and method is `plain`.
Calibration runs in float32, training in float64, as in the published float64 runs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tests.data.golden_quantizers import File
from tests.data.plain import cosine
from tests.data.plain_network import INPUT, MAX_BITS, MOMENTUM, WEIGHT, Network, fused_names
from tests.golden.network import ReducedMobileNetV2

_STEPS = 12
_MARGIN = 5e-6  # of a grid step: no activation of the calibration is nearer to a rounding boundary
_ARCH = {
    "input": [3, 12, 12],
    "stem": 6,
    "inverted_residual_setting_t_c_n_s": [[1, 4, 1, 1], [3, 6, 2, 2]],
    "last_channel": 12,
    "avgpool": 3,
    "n_class": 4,
}
_FREEZING = {"start": 0.12, "end": 0.05, "rel_start": 0.25, "momentum": MOMENTUM, "max_bits": MAX_BITS, "use_ema_x_int": True}
_DAMPENING = {"start": 0.0, "end": 0.1, "rel_start": 0.25, "aggregation": "kernel_mean"}
_OPTIMIZERS = {"optimizer": {"lr": 0.05, "momentum": 0.9, "weight_decay": 2.5e-5}, "quant_optimizer": {"lr": 1e-4}}


@dataclass(frozen=True)
class Setting:
    """Widths and estimation batches of a family of runs."""

    seed: int
    bits: int
    bits_act: int | None = None
    num_est_batches: int = 1

    def quantize(self, model: ReducedMobileNetV2, common: dict[str, Tensor]) -> Network:
        batches = [common[f"train_x_{index:02d}"] for index in range(self.num_est_batches)]
        return Network(model, batches, self.bits, self.bits_act or self.bits)


_EQUAL_WIDTHS = Setting(seed=3, bits=3)
_OTHER_WIDTHS = Setting(seed=3, bits=2, bits_act=5, num_est_batches=3)


class Run:
    """A run in progress, in float64."""

    def __init__(self, setting: Setting, common: dict[str, Tensor], mode: str, steps: int) -> None:
        self.mode, self.steps, self.step = mode, steps, 0
        self.network = setting.quantize(_float_model(common), common)
        self.network.model.double()
        self.batches = [(common[f"train_x_{index:02d}"].double(), common[f"train_y_{index:02d}"]) for index in range(_STEPS)]
        self.held = common["held_x"].double(), common["held_y"]
        self.sgd = torch.optim.SGD(self.network.weights().values(), **_OPTIMIZERS["optimizer"])
        self.adam = torch.optim.Adam(self.network.scales().values(), **_OPTIMIZERS["quant_optimizer"])

    def threshold(self) -> float:
        if self.mode in "ab" or self.step < _FREEZING["rel_start"] * self.steps:
            return 0.0
        return cosine(self.step, self.steps, _FREEZING["start"], _FREEZING["end"], _FREEZING["rel_start"])

    def dampening_weight(self) -> float:
        return cosine(self.step, self.steps, _DAMPENING["start"], _DAMPENING["end"], _DAMPENING["rel_start"]) if self.mode == "b" else 0.0

    def train_step(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step; return total loss, task loss and logits."""
        self.step += 1
        images, labels = self.batches[batch]
        self.network.model.train()
        self.network.track(self.threshold())
        self.sgd.zero_grad()
        self.adam.zero_grad()
        logits = self.network.model(images)
        task = F.cross_entropy(logits, labels)
        total = task
        if self.mode == "b":
            total = task + self.dampening_weight() * sum(layer.dampening() for layer in self.network.layers.values())
        total.backward()
        if self.step == 1:
            leaves = (self.network.weights() | {f"{name}._delta": scale for name, scale in self.network.scales().items()}).items()
            self.first_gradients = {name: leaf.grad.norm() for name, leaf in leaves}
        self.sgd.step()
        self.adam.step()
        return total.detach(), task.detach(), logits.detach()

    def state(self) -> dict[str, Tensor]:
        scales = {f"{name}._delta": scale for name, scale in self.network.scales().items()}
        return {name: tensor.detach().clone() for name, tensor in (self.network.weights() | scales | self.network.statistics()).items()}


def end_to_end_files() -> Iterator[File]:
    common, data = _common(_EQUAL_WIDTHS)
    yield data
    for mode, name in (("a", "lsq"), ("b", "dampening"), ("c", "freezing")):
        yield _trajectory(_EQUAL_WIDTHS, common, mode, f"e2e_{mode}_{name}_f64")
    yield _engine(_EQUAL_WIDTHS, common)


def other_width_files() -> Iterator[File]:
    """Activations wider than weights, ranges from several batches."""
    common, data = _common(_OTHER_WIDTHS)
    yield data
    yield _trajectory(_OTHER_WIDTHS, common, "c", "e2e_c_freezing_f64")


def _common(setting: Setting) -> tuple[dict[str, Tensor], File]:
    common = _data(setting.seed)
    model = _float_model(common)
    names = fused_names(model)
    common["fp_logits_held"] = model.eval()(common["held_x"])
    network = setting.quantize(model, common)
    common["init_quant_logits_held_eval"] = network.evaluate(common["held_x"])
    margin = min(layer.margin for layer in network.layers.values())
    assert margin > _MARGIN, f"an activation is {margin:.2g} steps from a rounding boundary; take another seed"
    common |= {f"init.{name}.delta": scale for name, scale in network.scales().items()}
    config = {"op": "e2e_data", "arch": _ARCH, "fused_to_fp": names, "n_bits": setting.bits, "n_bits_act": setting.bits_act}
    config |= {"num_est_batches": setting.num_est_batches, "quantizers": _quantizers(network)}
    return common, ("e2e_common", config, common)


def _data(seed: int) -> dict[str, Tensor]:
    """Return a float network trained for a moment, and its data: noisy class templates."""
    torch.manual_seed(seed)
    templates = torch.randn(_ARCH["n_class"], *_ARCH["input"])
    data: dict[str, Tensor] = {}
    for name in [f"train_{{}}_{index:02d}" for index in range(_STEPS)] + ["held_{}"]:
        labels = torch.randint(0, _ARCH["n_class"], (6,))
        data |= {name.format("y"): labels, name.format("x"): 0.6 * templates[labels] + torch.randn(6, *_ARCH["input"])}
    model = ReducedMobileNetV2(_ARCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for index in range(2 * _STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(data[f"train_x_{index % _STEPS:02d}"]), data[f"train_y_{index % _STEPS:02d}"]).backward()
        optimizer.step()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    return data | {f"fp.{name}": tensor.clone() for name, tensor in state.items()}


def _float_model(common: dict[str, Tensor]) -> ReducedMobileNetV2:
    model = ReducedMobileNetV2(_ARCH)
    model.load_state_dict({name.removeprefix("fp."): t for name, t in common.items() if name.startswith("fp.")}, strict=False)
    return model


def _quantizers(network: Network) -> dict[str, dict]:
    found = {}
    for name, layer in network.layers.items():
        for kind, grid in ((WEIGHT, layer.grid), (INPUT, layer.input_grid)):
            if grid is not None:
                limits = {"int_min": float(grid.limits[0]), "int_max": float(grid.limits[1])}
                found[f"{name}.{kind}"] = {"n_bits": grid.bits, "signed": grid.signed} | limits
    return found


def _trajectory(setting: Setting, common: dict[str, Tensor], mode: str, stem: str) -> File:
    """Modes a, b, c: twelve steps, an evaluation, re-estimation, an evaluation; the trackers see every forward pass."""
    run = Run(setting, common, mode, _STEPS)
    history = []
    for index in range(_STEPS):
        history.append((*run.train_step(index), run.network.frozen()))
    tensors = {
        "loss_per_step": torch.stack([one[0] for one in history]),
        "task_loss_per_step": torch.stack([one[1] for one in history]),
        "train_logits_step1": history[0][2],
        "total_oscillation_per_layer": run.network.per_layer("total"),
        "grad_norm_step1_per_param": torch.stack(list(run.first_gradients.values())),
    }
    tensors |= {"frozen_count_per_step": torch.tensor([one[3] for one in history], dtype=torch.int32)} if mode == "c" else {}
    tensors |= {f"final.{name}": tensor for name, tensor in run.state().items()}
    tensors["final_logits_eval_ema_bn"] = run.network.evaluate(run.held[0])
    run.network.reestimate([images for images, _ in run.batches])
    tensors |= {f"reestimated.{name}": tensor.clone() for name, tensor in run.network.statistics().items()}
    tensors["final_logits_eval_reestimated_bn"] = run.network.evaluate(run.held[0])
    freezing = _FREEZING | {"active": mode == "c"}
    config = {"op": "e2e", "mode": mode, "steps": _STEPS, "freezing": freezing, "dampening": _DAMPENING if mode == "b" else None}
    return stem, config | _shared_config(run) | {"grad_norm_param_names": list(run.first_gradients)}, tensors


def _shared_config(run: Run) -> dict:
    tracked = [f"{name}.weight_quantizer" for name in run.network.tracked]
    return _OPTIMIZERS | {"dtype": "float64", "tracked_layers": tracked}


def _engine(setting: Setting, common: dict[str, Tensor]) -> File:
    """Mode d: three epochs of four batches, each with re-estimation and an evaluation."""
    epochs, per_epoch = 3, 4
    run = Run(setting, common, "d", epochs * per_epoch)
    losses, frozen, evaluations, frequencies = [], [], [], []
    before = F.cross_entropy(run.network.evaluate(run.held[0]), run.held[1])
    for epoch in range(epochs):
        run.sgd.param_groups[0]["lr"] = _OPTIMIZERS["optimizer"]["lr"] * (1 + math.cos(math.pi * epoch / epochs)) / 2
        for batch in range(per_epoch):
            losses.append(run.train_step(batch)[0])
            frozen.append(run.network.frozen())
        run.network.reestimate([images for images, _ in run.batches[:per_epoch]])
        evaluations.append(F.cross_entropy(run.network.evaluate(run.held[0]), run.held[1]))
        frequencies.append(run.network.per_layer("frequency"))
    run.network.track(None)
    tensors = {
        "eval_loss_before_training": before,
        "eval_loss_per_epoch": torch.stack(evaluations),
        "train_loss_per_step": torch.stack(losses),
        "frozen_count_per_step": torch.tensor(frozen, dtype=torch.int32),
        "total_oscillation_per_layer": run.network.per_layer("total"),
        "ema_oscillation_sum_per_layer_after_each_evaluation": torch.stack(frequencies),
        "final_logits": run.network.evaluate(run.held[0]),
    }
    tensors |= {f"final.{name}": tensor.clone() for name, tensor in run.network.statistics().items()}
    config = {"op": "e2e_engine", "mode": "d", "epochs": epochs, "batches_per_epoch": per_epoch, "freezing": _FREEZING}
    return "e2e_d_engine_freezing_f64", config | _shared_config(run), tensors
