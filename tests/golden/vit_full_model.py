"""Golden whole networks of the ViT paper's code (docs/spec/vit.md, 10): a small DeiT and a small Swin, eight steps of AdamW."""

from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models.swin_transformer import SwinTransformer

from stillbit.interop import ImportReport, load_published
from stillbit.prepare import QuantConfig, calibrate, prepare, scales, undecayed, weights
from stillbit.training.distill import Distiller
from stillbit.training.heads import Heads
from tests.golden.case import Case, within
from tests.golden.vit_distillation import Says
from tests.golden.vit_modules import compare_calibrated, is_dead, model_tensor, zero_shifts

_EXACT = {"atol": 1e-9, "rtol": 1e-9}  # docs/spec/vit.md, 10, float64


def check_full_model(case: Case) -> dict[str, float]:
    """Compare float logits, calibrated scales, quantized logits, loss, gradient norms, and eight training steps."""
    model = _float_model(case)
    fp = case if case.config["fp_file"] is None else Case.load(case.path.with_name(case.config["fp_file"]))
    load_published(model, {name.removeprefix("fp."): tensor for name, tensor in fp.tensors.items() if name.startswith("fp.")})
    errors = _compare_logits(case, model, "fp_logits")
    bits = f"W{case.config['bits_w']}A{case.config['bits_a']}"
    prepare(model, QuantConfig.for_vit(bits, published=True), example=case.tensors["x"])
    model.double()
    state = {name.removeprefix("sd."): tensor for name, tensor in case.tensors.items() if name.startswith("sd.")}
    report = load_published(model, state)
    errors["init"] = _compare_calibration(case, model, report)
    load_published(model, state)
    errors |= _compare_logits(case, model, "logits")
    return errors | _train(case, model, report)


def _compare_calibration(case: Case, model: nn.Module, report: ImportReport) -> float:
    zero_shifts(model)
    calibrate(model, [case.tensors["x"]])
    wanted = {name: tensor for name, tensor in case.tensors.items() if name.startswith("init.")}
    return max(compare_calibrated(report, name.removeprefix("init."), model, tensor, name) for name, tensor in wanted.items())


def _compare_logits(case: Case, model: nn.Module, name: str) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        found = {f"{name}_eval": model(case.tensors["x"])}
        model.train()
        heads = Heads.of(model(case.tensors["x"]))
    if heads.classes is heads.distillation:
        found[f"{name}_train"] = heads.classes
    else:
        found |= {f"{name}_train_cls": heads.classes, f"{name}_train_dist": heads.distillation}
    return {one: within(given, case.tensors[one], one, **_EXACT) for one, given in found.items()}


def _train(case: Case, model: nn.Module, report: ImportReport) -> dict[str, float]:
    """Take the steps on one batch; compare the losses, the first gradients, and where it ends."""
    optimizer = _optimizer(case, model)
    distiller = Distiller(Says(case.tensors["teacher_logits"]))
    losses = []
    for step in range(case.config["steps"]):
        optimizer.zero_grad()
        heads = Heads.of(model.train()(case.tensors["x"]))
        hard = F.cross_entropy(heads.classes, case.tensors["target"].long())
        loss = distiller.loss(heads, case.tensors["teacher_logits"], hard)
        loss.backward()
        losses.append(loss.detach())
        if step == 0:
            norms = _compare_norms(case, report, "gradnorm.", lambda name: model.get_parameter(name).grad)
        optimizer.step()
    errors = {"gradient norms": norms, "loss": within(losses[0], case.tensors["loss"], "loss", **_EXACT)}
    errors["losses of 8 steps"] = within(torch.stack(losses), case.tensors["loss_steps"], "loss_steps", **_EXACT)
    errors["final norms"] = _compare_norms(case, report, "final_norm.", model_tensor(model))
    with torch.no_grad():
        errors["final logits"] = within(model.eval()(case.tensors["x"]), case.tensors["logits_eval_final"], "logits_eval_final", **_EXACT)
    return errors


def _compare_norms(case: Case, report: ImportReport, prefix: str, ours: Any) -> float:
    errors = [0.0]
    for name, wanted in case.tensors.items():
        key = name.removeprefix(prefix)
        if name.startswith(prefix) and not is_dead(key):
            (target,) = report.placed[key]
            errors.append(within(target.part_of(ours(target.name)).norm(), wanted, name, **_EXACT))
    return max(errors)


def _optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    """Decay what has two dimensions or more, except scales, learned shifts, tokens and position embeddings (docs/spec/vit.md, 7)."""
    config = case.config
    apart = {id(parameter) for parameter in (*undecayed(model), *scales(model))}
    groups = [
        {"params": [parameter for parameter in weights(model) if id(parameter) not in apart], "weight_decay": config["weight_decay"]},
        {"params": [parameter for parameter in model.parameters() if id(parameter) in apart], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config["lr"], betas=tuple(config["betas"]), eps=config["eps"])


def _float_model(case: Case) -> nn.Module:
    config = case.config
    if config["kind"] == "deit":
        model = VisionTransformerDistilled(
            img_size=config["img"],
            patch_size=config["patch"],
            num_classes=config["classes"],
            embed_dim=config["dim"],
            depth=config["depth"],
            num_heads=config["heads"],
            mlp_ratio=config["mlp_ratio"],
        )
        model.set_distilled_training(True)
        return model.double()
    return SwinTransformer(
        patch_size=[config["patch"]] * 2,
        embed_dim=config["dim"],
        depths=config["depths"],
        num_heads=config["heads"],
        window_size=[config["window"]] * 2,
        mlp_ratio=config["mlp_ratio"],
        num_classes=config["classes"],
        stochastic_depth_prob=0.0,
    ).double()
