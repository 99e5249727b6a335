"""Coverage: does each quantizer really see a tensor, and one shape only? Counted at run time, never inferred."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.prepare.example import run_example, watched
from stillbit.quantizers.base import Quantizer


@dataclass(frozen=True)
class Covered:
    """One quantizer as the example met it.

    Attributes:
        name: Its name in the model.
        bits: Its width.
        shape: Shape of the tensor that it quantized, batch included.
    """

    name: str
    bits: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Coverage:
    """What `prepare` did to a model.

    Attributes:
        weights: Weight quantizers in call order.
        activations: Activation quantizers in call order; one that is tied to another is not counted again.
        float_layers: Layers left in full precision by an override.
        float_parameters: Parameters that products read outside of quantized layers (`F.conv2d(x, weight)`, `x @ weight`), and their
            numbers of elements: they stay in full precision.
        notes: What a user should know, e.g. that the model is outside the table of output quantizers.
    """

    weights: tuple[Covered, ...]
    activations: tuple[Covered, ...]
    float_layers: tuple[str, ...] = ()
    float_parameters: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a summary of one line, and one line a note."""
        line = f"{len(self.weights)} weight quantizers ({_widths(self.weights)}), "
        line += f"{len(self.activations)} activation quantizers ({_widths(self.activations)})"
        if self.float_layers:
            line += f", in full precision: {', '.join(self.float_layers)}"
        return "\n".join((line, *self._float_parameters(), *self.notes))

    def _float_parameters(self) -> Iterator[str]:
        if self.float_parameters:
            whole = sum(math.prod(one.shape) for one in self.weights) + sum(elements for _, elements in self.float_parameters)
            share = sum(elements for _, elements in self.float_parameters) / whole
            names = ", ".join(name for name, _ in self.float_parameters[:3])
            more = f" and {len(self.float_parameters) - 3} more" if len(self.float_parameters) > 3 else ""
            yield f"not quantized: {names}{more}, multiplied by a function and no layer: {share:.1%} of the weights that multiply"


def _widths(covered: tuple[Covered, ...]) -> str:
    widths = sorted({one.bits for one in covered})
    return ", ".join(f"{sum(one.bits == bits for one in covered)} at {bits} bits" for bits in widths) or "none"


def measure_coverage(model: nn.Module, example: Any) -> tuple[Tensor, dict[str, Covered]]:
    """Run the example and record what each quantizer sees.

    Returns:
        The model's output, and the quantizers in call order.
    """
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
    seen: dict[str, tuple[int, ...]] = {}

    def record(name: str, inputs: tuple[Any, ...]) -> None:
        shape = tuple(inputs[0].shape)
        if seen.setdefault(name, shape) != shape:
            raise PrepareError(f"quantizer {name} sees two shapes, {seen[name]} and {shape}; give each use its own layer, or override it")

    with watched(dict(quantizers), record):
        output = run_example(model, example)
    missed = [name for name in quantizers if name not in seen]
    if missed:
        unreached = f"quantizer {missed[0]}{_and_more(missed)}"
        raise PrepareError(f"the example never reaches {unreached}; leave the layer out by an override (weight_bits 32)")
    return output, {name: Covered(name, quantizers[name].bits, shape) for name, shape in seen.items()}


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
