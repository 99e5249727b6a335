"""One run of the example through a model: which layers are called, in which order, how often, and what comes out."""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from stillbit.errors import PrepareError

_SOFTMAXES = (functional.softmax, torch.softmax, Tensor.softmax, functional.scaled_dot_product_attention)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and restores each module's own mode."""
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
    """Run the example and return the model's output, several outputs joined into one vector."""
    inputs = example if isinstance(example, tuple) else (example,)
    try:
        with evaluation(model):
            output = model(*inputs)
    except (RuntimeError, TypeError, AssertionError) as error:  # timm asserts that images have the size it was built for
        shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in inputs)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PrepareError(f"the example ({shapes}) does not run through the model: {reason}") from error
    return torch.cat([tensor.flatten() for tensor in _tensors(output)])


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for one in output:
            yield from _tensors(one)


@dataclass(frozen=True)
class Trace:
    """What one run of the example told about a float model.

    Attributes:
        order: Names of the layers of interest, in the order of their first call.
        shapes: Shape of each module's first positional input, batch included.
        activated: Layers of interest whose input is an activation function's output as it stands.
        softmaxes: Modules that took a softmax, or called a fused attention, of their own.
        output: The model's output, several outputs joined into one vector.
    """

    order: list[str]
    shapes: dict[str, tuple[int, ...]]
    activated: frozenset[str]
    softmaxes: tuple[str, ...]
    output: Tensor


def trace_example(model: nn.Module, layers: Collection[str], example: Any) -> Trace:
    """Run the example and watch."""
    watch = _Watch(frozenset(layers))
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: watch.enter(name, inputs)))
        handles.append(module.register_forward_hook(lambda module, _, output: watch.leave(module, output), always_call=True))
    try:
        with watch:
            output = run_example(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(list(watch.order), watch.shapes, frozenset(watch.activated), tuple(watch.softmaxes), output)


class _Watch(TorchFunctionMode):
    """Notes calls of modules, and of softmax by the innermost module that runs."""

    def __init__(self, layers: frozenset[str]) -> None:
        super().__init__()
        self.order: dict[str, None] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.activated: set[str] = set()
        self.softmaxes: dict[str, None] = {}
        self._layers = layers
        self._running: list[str] = []
        # By address, with the count of changes in place; kept alive, so that no address is used again.
        self._activations: dict[int, tuple[Tensor, int]] = {}

    def enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        """Note the call of a module."""
        self._running.append(name)
        if not inputs or not isinstance(inputs[0], Tensor):
            return
        self.shapes.setdefault(name, tuple(inputs[0].shape))
        if name in self._layers:
            self.order.setdefault(name)
            _, version = self._activations.get(inputs[0].data_ptr(), (None, None))
            if version == inputs[0]._version:
                self.activated.add(name)

    def leave(self, module: nn.Module, output: Any) -> None:
        """Note that a module has run, or has failed."""
        self._running.pop()
        if isinstance(output, Tensor) and is_activation(module):
            self._activations[output.data_ptr()] = (output, output._version)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in _SOFTMAXES and self._running:
            self.softmaxes.setdefault(self._running[-1])
        return func(*args, **(kwargs or {}))


def is_activation(module: nn.Module) -> bool:
    """Whether the module is an activation function whose output is mostly positive: ReLU, GELU and their kin."""
    kinds: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6, nn.GELU)
    if "timm.layers" in sys.modules:
        from timm.layers import activations

        kinds += (activations.GELU, activations.GELUTanh, activations.QuickGELU)
    return isinstance(module, kinds)
