"""The example, run through a model in evaluation mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and restore each module's own mode."""
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
    """Call `on_call(name, inputs)` before each forward of the modules."""
    handles = [module.register_forward_pre_hook(lambda _, inputs, name=name: on_call(name, inputs)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def as_input(model: nn.Module, example: Any) -> Any:
    """Return the example; of a shape, zeros where the model is and as precise as it is."""
    if not isinstance(example, tuple | list | torch.Size) or not example or not all(type(size) is int for size in example):
        return example
    parameter = next(model.parameters(), torch.zeros(()))
    return torch.zeros(tuple(example), device=parameter.device, dtype=parameter.dtype)


def run_example(model: nn.Module, example: Any) -> Tensor:
    """Run the example and return the model's output, several outputs joined into one vector."""
    inputs = example if isinstance(example, tuple) else (example,)
    try:
        with evaluation(model):
            output = model(*inputs)
    except (RuntimeError, TypeError, AssertionError) as error:  # timm asserts that images have the size it was built for
        shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in inputs)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PrepareError(f"the example ({shapes}) does not run through the model: {reason}") from error
    return torch.cat([tensor.flatten() for tensor in tensors_in(output)])


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested lists, tuples and dicts."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from tensors_in(list(output.values()))
    elif isinstance(output, list | tuple):
        for one in output:
            yield from tensors_in(one)
