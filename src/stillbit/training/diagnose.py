"""What went wrong: the first layer that is not finite, or an accuracy that has collapsed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.errors import DivergedError


class _FoundError(Exception):
    """Ends the forward pass at the first finding."""


@torch.no_grad()
def first_nonfinite(model: nn.Module, images: Tensor) -> str | None:
    """Run a batch through a model and find the first tensor that is not finite."""
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(_parameter_check(name)))
        handles.append(module.register_forward_hook(_output_check(name)))
    try:
        model(images)
    except _FoundError as found:
        return str(found)
    finally:
        for handle in handles:
            handle.remove()
    return None


def check_parameters(model: nn.Module, step: int) -> None:
    """Check that every parameter is finite, so that no broken state is ever saved."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise DivergedError(f"step {step}: {name} is not finite after the update; the last checkpoint is kept")


def check_collapse(top1: Sequence[float], num_classes: int) -> None:
    """Stop a run whose accuracy was clearly above chance and has been at chance for two evaluations."""
    chance = 1.0 / num_classes
    if len(top1) > 2 and max(top1[:-2]) > 3.0 * chance and max(top1[-2:]) < 1.5 * chance:
        raise DivergedError(
            f"validation accuracy fell from {max(top1[:-2]):.1%} to {top1[-1]:.1%}, chance is {chance:.1%}, and did not "
            "recover in 2 evaluations; best.pt is from before; lower the learning rate, or give activations more bits"
        )


def _parameter_check(name: str) -> Any:
    def check(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001 - the signature of a pre-hook
        for own, parameter in module.named_parameters(prefix=name, recurse=False):
            if not parameter.isfinite().all():
                raise _FoundError(own)

    return check


def _output_check(name: str) -> Any:
    def check(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001 - the signature of a hook
        tensors = output if isinstance(output, tuple | list) else (output,)
        if not all(tensor.isfinite().all() for tensor in tensors if isinstance(tensor, Tensor)):
            raise _FoundError(f"output of {name or 'the model'}")

    return check
