"""Rules on what steps the parameters."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from stillbit.doctor.finding import Found, Unknown
from stillbit.doctor.subjects import ModelSubject
from stillbit.quantizers import LSQ

# Adam moves a parameter by up to its learning rate a step. The published recipes move scales by 1e-5 (convolutional networks: a thousandth
# of a scale and less) and by that of the weights, 5.5e-4 (transformers: up to a quarter of the smallest scales, those of 8-bit weights).
LARGEST_MOVE = 0.5
# Without its factor an LSQ scale's gradient is the sum over its weights; the paper (arXiv 1902.08153, section 2.2) measures updates two to
# three orders of magnitude too large, and needs a learning rate a hundredth as high.
LARGEST_IMBALANCE = 10.0

_COLLAPSED = 1e-7  # a scale of which scale-collapsed says all

_BUILD = "build the optimizer after prepare: weights(model) and scales(model), or parameter_groups(model)"


def scale_not_in_optimizer(subject: ModelSubject) -> Iterator[Found]:
    """A quantizer's parameter that nothing steps."""
    held = subject.held()
    for name, quantizer in subject.quantizers.items():
        for kind, parameter in quantizer.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in held:
                yield Found(f"{name}.{kind}", f"{parameter.numel()} trainable elements that no optimizer steps", _BUILD)


def weight_not_in_optimizer(subject: ModelSubject) -> Iterator[Found]:
    """Another trainable parameter that nothing steps."""
    held = subject.held()
    for name, parameter in subject.model.named_parameters():
        if parameter.requires_grad and id(parameter) not in held and id(parameter) not in subject.scale_names:
            cure = f"{_BUILD}; what shall not train gets requires_grad_(False)"
            yield Found(name, f"{parameter.numel():,} trainable elements that no optimizer steps", cure)


def foreign_parameters(subject: ModelSubject) -> Iterator[Found]:
    """Parameters that are stepped and are not the model's."""
    own = {id(parameter) for parameter in subject.model.parameters()}
    for _, number, group in subject.groups():
        strangers = sum(id(parameter) not in own for parameter in group["params"])
        if strangers:
            what = f"{strangers} of {len(group['params'])} parameters are not of this model"
            cure = "build the optimizer from the model that is trained, after prepare; ignore this for parameters of a loss"
            yield Found(f"optimizer group {number}", what, cure)


def scale_weight_decay(subject: ModelSubject) -> Iterator[Found]:
    """Weight decay that pulls scales to zero."""
    for _, number, group in subject.groups():
        names = _scales_of(subject, group)
        decay = float(group.get("weight_decay", 0.0))
        if names and decay > 0.0:
            what = f"weight decay {decay:g} pulls {len(names)} scales to zero, first {names[0]}"
            yield Found(f"optimizer group {number}", what, "weight decay 0 for scales: parameter_groups(model, ...) or scale_optimizer")


def scale_learning_rate(subject: ModelSubject) -> Iterator[Found]:
    """Scales that one step moves by much of their size."""
    quantizers = {f"{name}.scale": one for name, one in subject.quantizers.items() if isinstance(one, LSQ)}
    moves = []
    for _, number, group in subject.groups():
        if "betas" not in group:
            continue
        for parameter in group["params"]:
            name = subject.scale_names.get(id(parameter), "")
            if name in quantizers and quantizers[name].is_calibrated:
                moves.append((_rate(group) / _size(quantizers[name]), name, number, _rate(group), _size(quantizers[name])))
    for move, name, number, rate, size in sorted(moves, reverse=True):
        if move > LARGEST_MOVE and size > _COLLAPSED:
            what = f"a step of Adam moves it by up to {rate:g} (group {number}), {move:.0%} of its {size:.2g}"
            yield Found(name, what, f"a learning rate of scales below {0.1 * size:.1g}; published: 1e-5 under Adam")


def scale_learning_rate_sgd(subject: ModelSubject) -> Iterator[Found]:
    """Scales under SGD whose gradient, a sum over all weights, is not scaled down."""
    rates = [_rate(group) for _, _, group in subject.groups() if not _scales_of(subject, group)] or [0.0]
    groups = {id(parameter): group for _, _, group in subject.groups() if "betas" not in group for parameter in group["params"]}
    found = []
    for site in subject.sites:
        quantizer = site.quantizer
        if not isinstance(quantizer, LSQ) or quantizer.scale_gradient != "none" or id(quantizer.scale) not in groups:
            continue
        group = groups[id(quantizer.scale)]
        both = any(id(parameter) not in subject.scale_names for parameter in group["params"])
        weight_rate = _rate(group) if both else max(rates)
        share = site.latent().numel() / quantizer.scale.numel()
        imbalance = _rate(group) / max(weight_rate, 1e-12) * math.sqrt(share * quantizer.limits[1])
        if imbalance > LARGEST_IMBALANCE:
            found.append((imbalance, subject.scale_names[id(quantizer.scale)], _rate(group)))
    for imbalance, name, rate in sorted(found, reverse=True):
        what = f"SGD at {rate:g} moves it some {imbalance:,.0f} times as much as its weights: its gradient sums over all of them"
        yield Found(name, what, "Adam at 1e-5 for scales (JointOptimizer), or scale_gradient: lsq")


def scale_without_gradient(subject: ModelSubject) -> Iterator[Found]:
    """Scales that backward never reached, where it reached others."""
    if not subject.live:
        return
    held = subject.held()
    if not any(parameter.grad is not None for parameter in subject.model.parameters()):
        raise Unknown("there are no gradients; examine between backward and zero_grad")
    for name, quantizer in subject.quantizers.items():
        scale = getattr(quantizer, "scale", None)
        if isinstance(scale, Tensor) and scale.requires_grad and id(scale) in held and scale.grad is None:
            cure = "look whether the layer is called in training, or its inputs are detached"
            yield Found(f"{name}.scale", "no gradient after backward", cure)


def two_optimizers(subject: ModelSubject) -> Iterator[Found]:
    """Weights and scales in two optimizers: a method rides on one of them only."""
    if subject.optimizers is None:
        raise Unknown("no optimizer was given")
    if len(subject.optimizers) > 1:
        names = " and ".join(type(one).__name__ for one in subject.optimizers)
        what = f"{len(subject.optimizers)} optimizers ({names}): a method sees the steps of one, a gradient scaler may skip one alone"
        yield Found("optimizers", what, "JointOptimizer(first, second): one step, one pair of hooks, one overflow check")


def half_precision(subject: ModelSubject) -> Iterator[Found]:
    """Trainable parameters in 16 bits, which small steps leave as they are."""
    half = (torch.float16, torch.bfloat16)
    latents = {id(parameter) for site in subject.sites for parameter in site.parameters}
    for name, parameter in subject.model.named_parameters():
        if parameter.dtype in half and (id(parameter) in latents or id(parameter) in subject.scale_names):
            least = torch.finfo(parameter.dtype).eps / 2
            what = f"{str(parameter.dtype).removeprefix('torch.')}: a step below {least:.2g} of its value is lost"
            yield Found(name, what, "keep parameters in float32 and compute under torch.autocast (recipes: training.precision)")


def _scales_of(subject: ModelSubject, group: dict[str, Any]) -> list[str]:
    return [subject.scale_names[id(parameter)] for parameter in group["params"] if id(parameter) in subject.scale_names]


def _rate(group: dict[str, Any]) -> float:
    """Gives the learning rate that a schedule begins with, where it left one behind; else the one of now."""
    return max(float(group.get("initial_lr", 0.0)), float(group["lr"]))


def _size(quantizer: LSQ) -> float:
    """Gives the size of the median scale; 1 for logarithms, whose steps are relative."""
    return 1.0 if quantizer.log_scale else max(float(quantizer.scale.detach().abs().median()), 1e-12)


def stepped_by(optimizers: tuple[Optimizer, ...], wanted: Optimizer) -> bool:
    """Says whether an optimizer is one of those, inside or outside of a wrapper."""
    inner = [one for given in optimizers for one in (given, getattr(given, "optimizer", None))]
    return any(one is wanted for one in inner)
