"""Linear layers: one scale for the input, scales along its rows or its columns, or floats."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.export.onnx.traced import assert_lowered, operations, quantized, weight

BIAS = torch.linspace(-1, 1, 6)
COARSE = 1e-3  # of the output: a Gemm's bias is in units of its accumulator
GRIDS: dict[str, dict[str, Any]] = {
    "tensor": {"scale": 0.2},
    "token": {"scale": torch.linspace(0.1, 0.6, 5).reshape(1, 5, 1), "zero_point": None, "low": -4, "high": 3},
    "channel": {"scale": torch.linspace(0.1, 0.6, 8).reshape(1, 1, 8), "zero_point": None, "low": -4, "high": 3},
}


@pytest.mark.parametrize("output", ["floats", "codes"])
@pytest.mark.parametrize("kind", ["per_tensor", "per_channel", "zero_point", "half_step"])
@pytest.mark.parametrize("grid", [*GRIDS, "floats"])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
def test_grids(biased: bool, grid: str, kind: str, output: str) -> None:
    matrix = weight(6, 8, kind=kind)

    def network(x: Tensor) -> Tensor:
        given = x if grid == "floats" else quantized(x, **GRIDS[grid])
        result = functional.linear(given, matrix(), BIAS if biased else None)
        return result if output == "floats" else quantized(result, 0.4, label="b") * 2

    done = operations(assert_lowered(network, 5, 8, tolerance=COARSE))
    wanted = {"tensor": "Gemm", "token": "MatMulInteger"}.get(grid, "MatMul")
    assert set(done) & {"Gemm", "MatMulInteger", "MatMul"} == {wanted}


@pytest.mark.parametrize("kind", ["zero_point", "one_zero_point"])
def test_eight_bits_with_zero_points_beside_scales_of_rows(kind: str) -> None:
    """The int8 tensor has zero points of its own then, and integer kernels take one."""
    matrix = weight(6, 8, bits=8, kind=kind)
    done = operations(assert_lowered(lambda x: functional.linear(quantized(x, **GRIDS["token"]), matrix(), BIAS), 5, 8))
    assert ("MatMulInteger" in done) == (kind == "one_zero_point")


@pytest.mark.parametrize("shift", [(8,), (1,), (5, 1), (5, 8)], ids=str)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("grid", ["tensor", "token"])
def test_learned_shifts_of_the_input(grid: str, biased: bool, shift: tuple[int, ...]) -> None:
    """Part of the bias where they are one number per channel; else the layer takes floats."""
    matrix, added = weight(6, 8), torch.linspace(-0.3, 0.5, 40)[: torch.Size(shift).numel()].reshape(shift)

    def network(x: Tensor) -> Tensor:
        return functional.linear(quantized(x, **GRIDS[grid]) + added, matrix(), BIAS if biased else None)

    done = operations(assert_lowered(network, 5, 8, tolerance=COARSE))
    assert ("MatMul" in done) == (len(shift) == 2)


def test_rows_alone() -> None:
    matrix = weight(6, 8)
    done = operations(assert_lowered(lambda x: quantized(functional.linear(quantized(x), matrix(), BIAS), 0.4, label="b"), 8))
    assert "Reshape" not in done


def test_a_quantizer_behind_movements_stands_before_them() -> None:
    """It is applied to the rows of the Gemm, so that a runtime fuses it, once; another reader of the output keeps it where it is."""
    matrix = weight(6, 8)

    def network(x: Tensor) -> Tensor:
        rows = functional.linear(quantized(x), matrix(), BIAS)
        return quantized(rows.view(-1, 5, 2, 3).permute(0, 2, 3, 1), 0.4, label="b").flatten(1)

    done = operations(assert_lowered(network, 5, 8))
    assert done.index("Clip", done.index("Gemm")) < done.index("Transpose")

    def another(x: Tensor) -> Any:
        rows = functional.linear(quantized(x), matrix(), BIAS)
        return quantized(rows, 0.4, label="b") + rows

    assert_lowered(another, 5, 8, tolerance=COARSE)


def normed(x: Tensor) -> Tensor:
    mean, variance = torch.linspace(-0.5, 0.5, 6), torch.linspace(0.5, 3, 6)
    return functional.batch_norm(x, mean, variance, torch.linspace(-1, 2, 6), torch.linspace(1, 0, 6), training=False)


@pytest.mark.parametrize("source", ["floats", "codes"])
@pytest.mark.parametrize("quantized_weight", [True, False], ids=["codes", "floats"])
def test_norms_become_part_of_a_layer(source: str, quantized_weight: bool) -> None:
    matrix, floats = weight(6, 8), torch.randn(6, 8, generator=torch.Generator().manual_seed(0))

    def network(x: Tensor) -> Tensor:
        given = quantized(x) if source == "codes" else x
        return normed(functional.linear(given, matrix() if quantized_weight else floats, BIAS))

    assert "BatchNormalization" not in operations(assert_lowered(network, 8, tolerance=COARSE))


def test_a_norm_of_rows_does_not() -> None:
    """Over axis 1 of (B, 6, 6), where a layer's outputs lie along the last."""
    matrix = weight(6, 8)
    done = operations(assert_lowered(lambda x: normed(functional.linear(quantized(x), matrix(), BIAS)), 6, 8, tolerance=COARSE))
    assert "BatchNormalization" in done
