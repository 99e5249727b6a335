"""One run of the example through a model: which layers are called, in which order, how often, and what comes out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Puts the model in evaluation mode, without gradients, and restores each module's own mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def watched(modules: dict[str, nn.Module], on_call: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Calls `on_call(name, inputs)` before each forward of the modules."""
    handles = [module.register_forward_pre_hook(lambda _, inputs, name=name: on_call(name, inputs)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_example(model: nn.Module, example: Any) -> Tensor:
    """Runs the example and gives the model's output, several outputs joined into one vector.

    Args:
        model: The model.
        example: Its input: a tensor, or a tuple of positional inputs.

    Raises:
        PrepareError: If the example does not fit the model.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    try:
        with evaluation(model):
            output = model(*inputs)
    except (RuntimeError, TypeError) as error:
        shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in inputs)
        raise PrepareError(f"the example ({shapes}) does not run through the model: {str(error).splitlines()[0]}") from error
    return torch.cat([tensor.flatten() for tensor in _tensors(output)])


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for one in output:
            yield from _tensors(one)


def call_order(model: nn.Module, layers: dict[str, nn.Module], example: Any) -> tuple[list[str], Tensor]:
    """Gives the layers' names in the order of their first call, and the model's output.

    Args:
        model: The model.
        layers: The layers of interest by name.
        example: The model's input.

    Returns:
        Names of the layers that were called, and the output.
    """
    called: dict[str, None] = {}
    with watched(layers, lambda name, _: called.setdefault(name)):
        output = run_example(model, example)
    return list(called), output
