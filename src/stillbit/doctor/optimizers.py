"""Rules on what steps the parameters."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from stillbit.doctor.subjects import ModelSubject
from stillbit.oscillation.optimizer_rules import Found, Unknown

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


def stepped_by(optimizers: tuple[Optimizer, ...], wanted: Optimizer) -> bool:
    """Return whether an optimizer is one of those, inside or outside of a wrapper."""
    inner = [one for given in optimizers for one in (given, getattr(given, "optimizer", None))]
    return any(one is wanted for one in inner)
