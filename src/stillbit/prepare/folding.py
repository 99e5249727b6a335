"""Folding: an activation function that only quantizers read becomes part of them (modules/folded.py).

Who reads its output is seen in a run of the example, operation by operation, not guessed from the order of modules.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stillbit.modules.adopt import replace_module
from stillbit.modules.folded import Foldable, foldable, folded
from stillbit.prepare.outputs import quantize_output
from stillbit.prepare.trace import run_example
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.tied import TiedQuantizer


def fold_activations(model: nn.Module, example: Any, *, balanced: bool) -> None:
    """Folds each ReLU and ReLU6 whose output reaches quantizers and nothing else into these, in place.

    An activation is left alone if a hook of the user's sees its output, if one of its readers also quantizes another tensor, or if a
    reader is tied to a further tensor.
    """
    activations = {module: found for module in model.modules() if (found := _foldable(module)) is not None}
    if not activations:
        return
    readers = _read_only_by_quantizers(model, list(activations), example)
    for activation, quantizers in readers.items():
        for quantizer in quantizers:
            quantizer.prologue = quantizer.prologue._replace(clip=activations[activation].clip)
            quantizer.recompute &= not (balanced and activations[activation].saves_input)
        replace_module(model, activation, folded(activation))


def _foldable(module: nn.Module) -> Foldable | None:
    seen_by_others = any(hook is not quantize_output for hook in module._forward_hooks.values())
    return None if seen_by_others else foldable(module)


def _read_only_by_quantizers(model: nn.Module, activations: list[nn.Module], example: Any) -> dict[nn.Module, set[Quantizer]]:
    """Return the activations that can be folded, and into which quantizers."""
    tied = {module.source for module in model.modules() if isinstance(module, TiedQuantizer)}
    watch = _Readers()
    # Before all other hooks: that of an output quantizer would change what leaves the activation.
    handles = [module.register_forward_hook(watch.leave_activation, prepend=True) for module in activations]
    for module in model.modules():
        if isinstance(module, Quantizer):
            handles.append(module.register_forward_pre_hook(watch.enter_quantizer))
            handles.append(module.register_forward_hook(watch.leave_quantizer))
        elif not _contains_quantizer(module) and type(module) is not nn.Identity:
            # Dropout and its kin do nothing here, in evaluation, but would in training.
            handles.append(module.register_forward_pre_hook(lambda _, inputs: watch.read(inputs)))
    try:
        with watch:
            run_example(model, example)  # reads what the model gives, too
    finally:
        for handle in handles:
            handle.remove()
    return {activation: found for activation in activations if (found := watch.only_by_quantizers(activation, tied))}


def _contains_quantizer(module: nn.Module) -> bool:
    return any(isinstance(part, Quantizer) for part in module.modules())


@dataclass
class _Read:
    """What became of the outputs of one activation."""

    quantizers: set[Quantizer] = field(default_factory=set)
    by_others: bool = False


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operations read the outputs of activations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._read: dict[nn.Module, _Read] = {}
        self._sources: dict[Quantizer, set[nn.Module | None]] = {}
        self._within_quantizer = 0
        # By address; kept alive, so that no address is used again.
        self._outputs: dict[int, tuple[Tensor, nn.Module]] = {}

    def leave_activation(self, activation: nn.Module, _inputs: Any, output: Tensor) -> None:
        """Note an output."""
        self._read.setdefault(activation, _Read())
        self._outputs[output.data_ptr()] = (output, activation)

    def enter_quantizer(self, quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Note that a quantizer reads a tensor."""
        assert isinstance(quantizer, Quantizer)
        if shifted := inputs[1:] and inputs[1] is not None:
            self.read(inputs[0])  # a learned shift stands between
        found = None if shifted else self._outputs.get(inputs[0].data_ptr())
        activation = None if found is None else found[1]
        self._sources.setdefault(quantizer, set()).add(activation)
        if activation is not None:
            self._read[activation].quantizers.add(quantizer)
        self._within_quantizer += 1

    def leave_quantizer(self, _quantizer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        """Make what leaves a bypassed quantizer another tensor than what entered."""
        copied = output.clone()
        self._within_quantizer -= 1
        return copied

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if not self._within_quantizer:
            self.read((args, kwargs))
        return func(*args, **(kwargs or {}))

    def read(self, tensors: Any) -> None:
        """Note that something else than a quantizer reads tensors."""
        for output in self._among(tensors):
            self._read[output].by_others = True

    def only_by_quantizers(self, activation: nn.Module, tied: set[Quantizer]) -> set[Quantizer]:
        """Return the readers of an activation that nothing but these quantizers reads, and that read nothing else; else none."""
        read = self._read.get(activation, _Read(by_others=True))
        alone = all(self._sources[quantizer] == {activation} and quantizer not in tied for quantizer in read.quantizers)
        return read.quantizers if alone and not read.by_others else set()

    def _among(self, tensors: Any) -> Iterator[nn.Module]:
        for leaf in tree_leaves(tensors):
            if isinstance(leaf, Tensor) and leaf.data_ptr() in self._outputs:
                yield self._outputs[leaf.data_ptr()][1]
