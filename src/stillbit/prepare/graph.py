"""One run of the example through a float model, recorded operation by operation; what `prepare` decides are queries on the record."""

import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from stillbit.prepare.example import run_example, tensors_in

_PRODUCTS = ("convolution", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "deform_conv2d", "_grouped_mm")
_ATTENTION = "_scaled_dot_product"  # begins the names of fused attentions
_SOFTMAXES = (functional.softmax, torch.softmax, Tensor.softmax, functional.scaled_dot_product_attention)


class Value(NamedTuple):
    """What a tensor holds at a time; of the same elements, whatever their shape, it is the same value.

    Attributes:
        content: Number of what its memory holds; another one as soon as anything in there is changed in place, through whichever view.
        start: Of its first element, in bytes from the beginning of the memory.
        elements: How many there are.
    """

    content: int
    start: int
    elements: int


@dataclass(eq=False)
class Visit:
    """A forward pass of a module.

    Attributes:
        module: Its full name.
        around: The visit that it happened in; None: the model's own, at the top.
        entered: When it began, and `left` when it ended, on a clock that all visits share.
        inputs: Values of its positional arguments.
        shape: Shape of the first one, batch included; empty where that is no tensor.
        outputs: Values that it returned.
    """

    module: str
    around: "Visit | None"
    entered: int
    inputs: tuple[Value, ...]
    shape: tuple[int, ...]
    left: int = -1
    outputs: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Call:
    """An operation.

    Attributes:
        operation: Its name, such as `aten.add.Tensor`.
        visit: The innermost visit that it happened in; None: outside of the model.
        reads: Values of its tensors.
        makes: Values of its results, views apart.
    """

    operation: str
    visit: Visit | None
    reads: tuple[Value, ...]
    makes: tuple[Value, ...]


@final
@dataclass(frozen=True)
class Graph:
    """What one run told.

    Attributes:
        visits: In the order in which they began.
        calls: In order.
        softmaxes: Modules that took a softmax, or called a fused attention, of their own.
        parameters: Names of the model's parameters of two axes or more, by the number of their content.
        output: The model's output, several outputs joined into one vector.
    """

    visits: tuple[Visit, ...]
    calls: tuple[Call, ...]
    softmaxes: tuple[str, ...]
    parameters: dict[int, str]
    output: Tensor

    def order(self, modules: Collection[str]) -> list[str]:
        """Return those of the modules that were called, in the order of their first call."""
        return list(dict.fromkeys(visit.module for visit in self.visits if visit.module in modules))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each module's first positional input."""
        found: dict[str, tuple[int, ...]] = {}
        for visit in self.visits:
            if visit.shape:
                found.setdefault(visit.module, visit.shape)
        return found

    def made_by(self, modules: Collection[str]) -> dict[Value, str]:
        """Return the values that these modules returned, and by which."""
        return {value: visit.module for visit in self.visits if visit.module in modules for value in visit.outputs}

    def readers(self, values: Collection[Value]) -> tuple[list[Visit], list[Call]]:
        """Return the visits that were entered with one of these values or a part of it, and the operations that read one."""
        contents = {value.content for value in values}
        visits = [visit for visit in self.visits if any(value.content in contents for value in visit.inputs)]
        return visits, [call for call in self.calls if any(value.content in contents for value in call.reads)]

    def multiplied_outside(self, layers: Collection[str]) -> list[str]:
        """Return the parameters that products read anywhere but as the weight of one of these layers."""
        found: dict[str, None] = {}
        for call in self.calls:
            kind = call.operation.split(".")[1]
            if kind not in _PRODUCTS and not kind.startswith(_ATTENTION):
                continue
            layer = call.visit.module if call.visit is not None else None
            for value in call.reads:
                name = self.parameters.get(value.content)
                if name is not None and not (layer in layers and name.rpartition(".")[0] == layer):
                    found.setdefault(name)
        return list(found)


def record(model: nn.Module, example: Any) -> Graph:
    """Run the example through a float model, once, and record it.

    Raises:
        PrepareError: If the example does not fit the model.
    """
    recorder = _Recorder()
    parameters = {recorder.values.of(one).content: name for name, one in model.named_parameters() if one.dim() > 1}
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: recorder.enter(name, inputs)))
        # Before all other hooks: what the module itself returns.
        handles.append(module.register_forward_hook(lambda *given: recorder.leave(given[-1]), prepend=True, always_call=True))
    functions = _Functions(recorder)
    try:
        with functions, recorder:
            output = run_example(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return Graph(tuple(recorder.visits), tuple(recorder.calls), tuple(functions.softmaxes), parameters, output)


def is_activation(module: nn.Module) -> bool:
    """Return whether the module is an activation function whose output is mostly positive: ReLU, GELU and their kin."""
    kinds: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6, nn.GELU)
    if "timm.layers" in sys.modules:
        from timm.layers import activations

        kinds += (activations.GELU, activations.GELUTanh, activations.QuickGELU)
    return isinstance(module, kinds)


@dataclass
class _Values:
    """Numbers of what memories hold; a memory that is freed and used again holds something new."""

    contents: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def make(self, tensor: Tensor) -> Value:
        self.count += 1
        memory = _memory(tensor)
        if memory:  # an empty tensor has none, nor has one on the meta device: each time it is met it is new
            self.contents[memory] = self.count
        return Value(self.count, tensor.data_ptr() - memory, tensor.numel())

    def of(self, tensor: Tensor) -> Value:
        memory = _memory(tensor)
        content = self.contents.get(memory)
        return self.make(tensor) if content is None else Value(content, tensor.data_ptr() - memory, tensor.numel())


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation changes in place."""
    parameters = func._schema.arguments
    given = dict(zip((one.name for one in parameters), args, strict=False)) | kwargs
    return [tensor for one in parameters if one.is_write for tensor in tensors_in(given.get(one.name))]


class _Recorder(TorchDispatchMode):
    """Notes calls of modules and operations; it keeps no tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.visits: list[Visit] = []
        self.calls: list[Call] = []
        self.running: list[Visit] = []
        self.values = _Values()
        self._clock = 0

    def enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        values = tuple(self.values.of(tensor) for tensor in tensors_in(inputs))
        shape = tuple(inputs[0].shape) if inputs and isinstance(inputs[0], Tensor) else ()
        visit = Visit(name, self.running[-1] if self.running else None, self._tick(), values, shape)
        self.visits.append(visit)
        self.running.append(visit)

    def leave(self, output: Any) -> None:
        visit = self.running.pop()
        visit.left = self._tick()
        visit.outputs = tuple(self.values.of(tensor) for tensor in tensors_in(output))

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        given, written = list(tensors_in((args, kwargs))), _written(func, args, kwargs)
        reads = tuple(self.values.of(tensor) for tensor in given)
        result = func(*args, **kwargs)
        kept = {_memory(tensor) for tensor in given} - {_memory(tensor) for tensor in written}
        made = [tensor for tensor in tensors_in(result) if _memory(tensor) not in kept]
        for tensor in (*written, *made):
            self.values.make(tensor)
        makes = tuple(self.values.of(tensor) for tensor in made)
        self.calls.append(Call(str(func), self.running[-1] if self.running else None, reads, makes))
        return result


class _Functions(TorchFunctionMode):
    """Notes softmaxes as the model calls them: a fused attention has none among its operations."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.softmaxes: dict[str, None] = {}
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in _SOFTMAXES and self._recorder.running:
            self.softmaxes.setdefault(self._recorder.running[-1].module)
        return func(*args, **(kwargs or {}))
