"""Programs of a few operations, written as functions of tensors and held to their ONNX graphs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from stillbit.export import Program
from stillbit.export.capture import trace
from stillbit.export.onnx import to_onnx
from stillbit.export.onnx.containers import Container
from stillbit.export.simplify import simplify
from tests.export.onnx.running import forced, run

Function = Callable[[Tensor], Any]


class _Network(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Any:
        return self._function(x)


def traced(function: Function, *shape: int) -> Program:
    """Return the program of a function of a batch; the shape is without the batch."""
    return simplify(trace(_Network(function).eval(), torch.zeros(2, *shape)), shape)


def assert_lowered(function: Function, *shape: int, exact: bool = False, tolerance: float = 1e-5) -> onnx.ModelProto:
    """Hold the graph of a function to the function: the same codes at each quantizer, the same values behind them; return the graph."""
    program = traced(function, *shape)
    proto, manifest = to_onnx(program, Container(), exact=exact)
    for batch in (1, 3):
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        found, *codes = run(proto, x, watch=tuple(one.codes for one in manifest.activations), optimized=False)
        steps, output = forced(program, manifest, x, codes)
        assert len(steps) == len(manifest.activations)
        assert not any((one != 0).any() for one in steps.values())
        assert found.shape == tuple(output.shape)
        np.testing.assert_allclose(found, output.numpy(), rtol=1e-5, atol=tolerance * output.abs().max().item())
    return proto


def quantized(
    x: Tensor, scale: Tensor | float = 0.2, *, low: int = 0, high: int = 15, zero_point: int | None = 6, label: str = "a", clip: Any = None
) -> Tensor:
    """The values of an activation's codes, 4 bits wide unless told."""
    scale = scale if isinstance(scale, Tensor) else torch.tensor(scale)
    point = None if zero_point is None else torch.full_like(scale, zero_point)
    values: Tensor = torch.ops.stillbit.fake_quantize(x, scale, point, 0.0, low, high, clip, label)
    return values


def weight(*shape: int, bits: int = 4, kind: str = "per_channel", label: str = "w") -> Callable[[], Tensor]:
    """Return what makes the values of a weight's codes; per_channel, per_tensor, zero_point, one_zero_point or half_step."""
    generator = torch.Generator().manual_seed(3)
    low = 0 if "zero_point" in kind else -(2 ** (bits - 1))
    codes = torch.randint(low, low + 2**bits, shape, generator=generator).to(torch.uint8 if low == 0 else torch.int8)
    sizes = (1,) * len(shape) if kind in ("per_tensor", "one_zero_point") else (shape[0], *(1,) * (len(shape) - 1))
    scale = torch.rand(sizes, generator=generator) * 0.1 + 0.05
    point = torch.randint(0, 2**bits, sizes, generator=generator).float() if "zero_point" in kind else None
    shift = 0.5 if kind == "half_step" else 0.0
    return lambda: torch.ops.stillbit.dequantize(codes, scale, point, shift, bits, label)


def operations(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]
