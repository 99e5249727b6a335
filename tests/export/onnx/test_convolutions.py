"""Convolutions of every shape, on codes and on floats, before codes and before floats."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.export.onnx.traced import Function, assert_lowered, operations, quantized, weight

SHAPE = (4, 6, 9)
SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((8, 4, 3, 2), {}),
    "same": ((8, 4, 5, 3), {"padding": "same"}),
    "same-dilated": ((8, 4, 2, 3), {"padding": "same", "dilation": (2, 3)}),
    "same-uneven": ((8, 4, 4, 2), {"padding": "same"}),
    "valid": ((8, 4, 3, 2), {"padding": "valid", "stride": (1, 2)}),
    "padded": ((8, 4, 3, 3), {"padding": (2, 1), "stride": (1, 3)}),
    "dilated": ((8, 4, 2, 3), {"dilation": (3, 2)}),
    "grouped": ((8, 2, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((4, 1, 2, 3), {"groups": 4}),
    "grouped_1x1": ((8, 2, 1, 1), {"groups": 2}),
    "1x1": ((8, 4, 1, 1), {}),
    "1x1-strided": ((8, 4, 1, 1), {"stride": (1, 2)}),
    "1x1-padded": ((8, 4, 1, 1), {"padding": (0, 1)}),
    "patches": ((8, 4, 2, 3), {"stride": (2, 3)}),
    "patches-rest": ((8, 4, 4, 3), {"stride": (4, 3)}),
}
BIAS = torch.linspace(-2, 2, 8)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("output", ["floats", "codes"])
@pytest.mark.parametrize("source", ["floats", "codes"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, source: str, output: str) -> None:
    shape, settings = SHAPES[name]
    kernel = weight(*shape)

    def network(x: Tensor) -> Tensor:
        given = x if source == "floats" else quantized(x, zero_point=5)
        result = functional.conv2d(given, kernel(), BIAS[: shape[0]], **settings)
        return result if output == "floats" else quantized(result, 0.8, label="b")

    done = operations(assert_lowered(network, *SHAPE))
    gemm = name in ("1x1", "1x1-strided", "patches") and source == "codes" and output == "floats"
    assert ("Gemm" in done, "Conv" in done) == (gemm, not gemm)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["per_tensor", "per_channel", "zero_point", "half_step"])
@pytest.mark.parametrize("low", [0, -8], ids=["unsigned", "signed"])
def test_grids(kind: str, bits: int, low: int) -> None:
    bits = 7 if (kind, bits) == ("half_step", 8) else bits
    kernel = weight(8, 4, 3, 3, bits=bits, kind=kind)

    def network(x: Tensor) -> Tensor:
        result = functional.conv2d(quantized(x, low=low, high=low + 15, zero_point=None if low else 6), kernel(), BIAS)
        return quantized(result, 4.0 if bits == 8 else 0.7, zero_point=9, label="b")

    assert_lowered(network, *SHAPE)


def normed(x: Tensor, *, affine: bool = True) -> Tensor:
    mean, variance = torch.linspace(-0.5, 0.5, 8), torch.linspace(0.5, 3, 8)
    gamma, beta = (torch.linspace(-1, 2, 8), torch.linspace(1, 0, 8)) if affine else (None, None)
    result: Tensor = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps=0.01)
    return result


NORMS: dict[str, Function] = {
    "norm": normed,
    "bare_norm": lambda x: normed(x, affine=False),
    "two_norms": lambda x: normed(normed(x)),
    "constant_then_norm": lambda x: normed(x + torch.linspace(0, 3, 8).reshape(8, 1, 1)),
    "norm_then_constants": lambda x: torch.linspace(0, 3, 8).reshape(8, 1, 1) + (normed(x) + torch.ones(1, 1, 1, 1)),
}


@pytest.mark.parametrize("output", ["floats", "codes"])
@pytest.mark.parametrize("source", ["floats", "codes"])
@pytest.mark.parametrize("name", NORMS)
def test_norms_and_constants_become_part_of_a_layer(name: str, source: str, output: str) -> None:
    kernel, biased = weight(8, 2, 3, 3), source == output

    def network(x: Tensor) -> Tensor:
        given = x if source == "floats" else quantized(x)
        result: Tensor = NORMS[name](functional.conv2d(given, kernel(), BIAS if biased else None, groups=2))
        return result if output == "floats" else quantized(result, 0.8, label="b")

    assert not {"BatchNormalization", "Add"} & set(operations(assert_lowered(network, *SHAPE)))


def test_a_float_weight_takes_a_norm() -> None:
    kernel = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    done = operations(assert_lowered(lambda x: quantized(normed(functional.conv2d(x, kernel, BIAS)), 0.3), *SHAPE))
    assert "BatchNormalization" not in done


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("shift", [(4, 1, 1), (1, 1, 1), (4, 6, 1), (1, 1, 9)], ids=str)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
def test_learned_shifts_of_the_input(shift: tuple[int, ...], padding: int, biased: bool) -> None:
    """Part of the bias where they are one number per channel and no padding stands next to them."""
    kernel, added = weight(8, 2, 3, 3), torch.linspace(-0.3, 0.4, 36)[: torch.Size(shift).numel()].reshape(shift)

    def network(x: Tensor) -> Tensor:
        result = functional.conv2d(quantized(x) + added, kernel(), BIAS if biased else None, padding=padding, groups=2)
        return quantized(result, 0.8, label="b")

    done = operations(assert_lowered(network, *SHAPE))
    assert ("Add" not in done) == (shift[1:] == (1, 1) and not padding)


def test_a_weight_that_two_layers_read() -> None:
    kernel = weight(4, 4, 1, 1)

    def network(x: Tensor) -> Tensor:
        values = kernel()
        return functional.conv2d(functional.conv2d(quantized(x), values), values)

    assert_lowered(network, *SHAPE)


@pytest.mark.parametrize("kind", ["per_channel", "zero_point"])
def test_exact_layers_run_in_floats(kind: str) -> None:
    """8-bit codes of images: no bias gives the exact codes, and the input carries a shift and a zero point."""
    kernel = weight(8, 4, 3, 3, bits=8 if kind == "zero_point" else 7, kind=kind)

    def network(x: Tensor) -> Tensor:
        given = quantized(x, 0.02, high=255, zero_point=120) + torch.linspace(-1, 1, 4).reshape(4, 1, 1)
        return quantized(functional.conv2d(given, kernel(), BIAS), 0.4, high=255, zero_point=128, label="b")

    done = operations(assert_lowered(network, *SHAPE, exact=True))
    assert "DequantizeLinear" not in done[: done.index("Conv")]
