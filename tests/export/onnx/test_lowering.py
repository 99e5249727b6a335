"""Quantizers in the graph: their limits, zero points and scales; and what has no form there."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stillbit.errors import ExportError
from stillbit.export.onnx import to_onnx
from stillbit.export.onnx.containers import Container
from tests.export.onnx.traced import assert_lowered, operations, quantized, traced, weight

SHAPE = (4, 6)
GRIDS: dict[str, dict[str, Any]] = {
    "unsigned": {"zero_point": None},
    "signed": {"low": -8, "high": 7, "zero_point": None},
    "narrow": {"low": -7, "high": 7, "zero_point": None},
    "zero_point": {"zero_point": 6},
    "negative_zero_point": {"low": -8, "high": 7, "zero_point": -3},
    "bytes": {"high": 255, "zero_point": 120, "scale": 0.02},
    "signed_bytes": {"low": -128, "high": 127, "zero_point": None, "scale": 0.02},
    "clipped": {"clip": [-0.5, 0.9], "zero_point": 6},
    "clipped_signed": {"clip": [0.0, 0.9], "low": -8, "high": 7, "zero_point": -2},
    "clipped_beyond": {"clip": [0.0, 6.0], "zero_point": None},
    "channels": {"scale": torch.linspace(0.1, 0.3, 4).reshape(1, 4, 1), "zero_point": None, "low": -8, "high": 7},
    "channels-zero_point": {"scale": torch.linspace(0.1, 0.3, 4).reshape(1, 4, 1), "zero_point": 6},
    "last_axis": {"scale": torch.linspace(0.1, 0.3, 6).reshape(1, 1, 6), "zero_point": 6},
    "two_axes": {"scale": torch.linspace(0.1, 0.3, 24).reshape(1, 4, 6), "zero_point": 6},
}


@pytest.mark.parametrize("name", GRIDS)
def test_quantizers(name: str) -> None:
    done = operations(assert_lowered(lambda x: quantized(x, **GRIDS[name]) * 2, *SHAPE))
    assert ("Clip" in done) == ("bytes" not in name)
    assert ("Div" in done) == (name in ("last_axis", "two_axes"))  # OpenVINO has scales of channels alone, ONNX Runtime is slow at others


def points(x: Tensor) -> Tensor:
    scale = torch.full((1, 4, 1), 0.2)
    values: Tensor = torch.ops.stillbit.fake_quantize(x, scale, torch.arange(4.0).reshape(1, 4, 1), 0.0, 0, 15, None, "here")
    return values


def turned_weight(x: Tensor) -> Tensor:
    codes, scale = torch.ones(6, 5, dtype=torch.int8), torch.linspace(0.1, 0.3, 30).reshape(6, 5)
    return x * torch.ops.stillbit.dequantize(codes, scale, None, 0.0, 4, "there").sum()


def clipped_by_channel(x: Tensor) -> Tensor:
    return quantized(x, **GRIDS["channels"] | {"clip": [0.0, 0.5]}, label="here")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (points, "quantizer here has several zero points; allowed: one"),
        (turned_weight, "quantizer there: its weight has scales along two axes; allowed: one an output channel"),
        (clipped_by_channel, "quantizer here has several scales behind a folded activation; allowed: fold_activations=False"),
        (lambda x: torch.nn.functional.linear(x, weight_of_nine_bits()), "quantizer w: no int8 tensor holds its codes .8 bits, no zero."),
    ],
    ids=["zero_points", "two_axes", "clip", "nine_bits"],
)
def test_what_has_no_form_is_one_line(function: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        to_onnx(traced(function, *SHAPE), Container())


weight_of_nine_bits = weight(3, 6, bits=8, kind="half_step")


def test_a_network_may_give_several_outputs() -> None:
    program = traced(lambda x: (quantized(x), x + 1), *SHAPE)
    proto, manifest = to_onnx(program, Container())
    assert [output.name for output in proto.graph.output] == ["logits0", "logits1"]
    assert manifest.output == "logits0"
