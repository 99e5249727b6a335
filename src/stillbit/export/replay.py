"""A program run on the codes that a runtime gave: each quantizer judged by what it makes of the runtime's own input to it.

Without this, one code that differs would spread through all layers behind it, and nobody could say which layer is to blame. In float64
the same run is the exact reference: products of codes are whole numbers there, and what is left is 29 bits finer than float32.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from stillbit.export.layers import operation_of
from stillbit.export.ops import code_of
from stillbit.export.program import Program, arguments


@dataclass(frozen=True)
class Quantized:
    """What a quantizer of a program met.

    Attributes:
        codes: That it gives, as floats.
        positions: Its input in steps of the grid, zero point added, clipped to what rounds to one of its codes.
    """

    codes: Tensor
    positions: Tensor


class Replay:
    """Runs a program on a runtime's codes."""

    def __init__(self, program: Program, dtype: torch.dtype = torch.float32) -> None:
        self._module = program.module if dtype == torch.float32 else copy.deepcopy(program.module).to(dtype)
        self._dtype = dtype

    def __call__(self, x: Tensor, codes: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Quantized], Tensor]:
        """Run it on a batch.

        Args:
            x: The batch.
            codes: By name of quantizer, what its output is replaced by; None: it is not.

        Returns:
            By name of quantizer what it met, and the output.
        """
        run = _Run(self._module, codes)
        with torch.no_grad():
            output: Tensor = run.run(x.to(self._dtype))
        return run.met, output


def quantizer_names(program: Program) -> list[str]:
    """Return the names of a program's activation quantizers in order; one that is called again has a number."""
    return numbered(list(_labels(program.module.graph)))


def numbered(labels: list[str]) -> list[str]:
    """Return names as `quantizer_names` gives them.

    >>> numbered(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    seen: Counter[str] = Counter()
    return [_numbered(label, seen) for label in labels]


def _labels(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        if operation_of(node) == "fake_quantize":
            yield arguments(node)["label"]


def _numbered(label: str, seen: Counter[str]) -> str:
    seen[label] += 1
    return label if seen[label] == 1 else f"{label} ({seen[label]})"


class _Run(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, codes: Mapping[str, Tensor] | None) -> None:
        super().__init__(module)
        self._codes = codes
        self._seen: Counter[str] = Counter()
        self.met: dict[str, Quantized] = {}

    def run_node(self, n: fx.Node) -> Any:
        if operation_of(n) != "fake_quantize":
            return super().run_node(n)
        arguments, keywords = self.fetch_args_kwargs_from_env(n)
        return self._quantize(*arguments, **keywords)

    def _quantize(
        self, x: Tensor, scale: Tensor, zero_point: Tensor | None, shift: float, low: int, high: int, clip: list[float] | None, label: str
    ) -> Tensor:
        own = code_of(x, scale, zero_point, shift, low, high, clip, label)
        latent = x if clip is None else x.clamp(clip[0], clip[1])
        offset = -shift if zero_point is None else zero_point - shift
        name = _numbered(label, self._seen)
        self.met[name] = Quantized(own, (latent / scale + offset).clamp(low - 0.5, high + 0.5))
        given = own if self._codes is None else self._codes[name].to(own.dtype).reshape(own.shape)
        return scale * (given - offset)
