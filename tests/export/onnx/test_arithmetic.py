"""Operations on floats and on sizes, each against PyTorch's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stillbit.errors import ExportError
from stillbit.export.onnx import arithmetic, to_onnx
from stillbit.export.onnx.containers import Container
from stillbit.export.runtime import open_session
from tests.export.onnx.running import kernels, run
from tests.export.onnx.traced import Function, assert_lowered, operations, quantized, traced, weight

SHAPE = (4, 6, 8)
CLASS = torch.linspace(-1, 1, 8).reshape(1, 1, 8)
MASK = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
TABLE = torch.tensor([[2, 0], [1, 2]])


def normed(x: Tensor, *, affine: bool = True) -> Tensor:
    mean, variance = torch.linspace(-0.5, 0.5, 4), torch.linspace(0.5, 3, 4)
    gamma, beta = (torch.linspace(-1, 2, 4), torch.linspace(1, 0, 4)) if affine else (None, None)
    return functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps=0.01)


FUNCTIONS: dict[str, Function] = {
    "add": lambda x: 2 + x + CLASS + x.mean((2, 3), keepdim=True),
    "sub": lambda x: CLASS - (x - 1),
    "mul": lambda x: x * CLASS * 3,
    "div": lambda x: x / (CLASS + 3) / 2,
    "relu": lambda x: x.relu(),
    "relu6": lambda x: functional.hardtanh(x * 4, 0.0, 6.0),
    "relu6-function": lambda x: torch.ops.aten.relu6(x * 4),
    "rsub": lambda x: torch.rsub(x, 3),
    "hardtanh": lambda x: functional.hardtanh(x, -0.5, 0.7),
    "gelu": lambda x: functional.gelu(x * 3),
    "gelu_tanh": lambda x: functional.gelu(x * 3, approximate="tanh"),
    "silu": lambda x: functional.silu(x),
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": lambda x: x.tanh(),
    "hardsigmoid": lambda x: functional.hardsigmoid(x * 3),
    "hardswish": lambda x: functional.hardswish(x * 3),
    "softmax": lambda x: x.softmax(2),
    "softmax_last": lambda x: x.softmax(-1),
    "mean_of_images": lambda x: x.mean((-1, 2)),
    "mean_of_images_kept": lambda x: x.mean((2, 3), keepdim=True),
    "mean_of_tokens": lambda x: x.mean(1),
    "mean_kept": lambda x: x.mean((1, -1), keepdim=True),
    "adaptive": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "avg_pool": lambda x: functional.avg_pool2d(x, 2),
    "avg_pool-padded": lambda x: functional.avg_pool2d(x, (3, 2), stride=(2, 1), padding=(1, 0)),
    "avg_pool-pads_left_out": lambda x: functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
    "avg_pool-ceil": lambda x: functional.avg_pool2d(x, 3, stride=2, ceil_mode=True),
    "cat": lambda x: torch.cat([x, x * 2], 2),
    "expand": lambda x: torch.cat([CLASS.expand(x.shape[0], 4, -1, -1), x], 2),
    "halves": lambda x: torch.cat([CLASS.expand(x.reshape(-1, 2, 6, 8).shape[0] // 2, 4, -1, -1), x], 2),
    "index": lambda x: x + CLASS.reshape(8, 1)[TABLE].reshape(2, 2).sum(),
    "layer_norm": lambda x: functional.layer_norm(x, (8,), CLASS.flatten(), CLASS.flatten() + 1, eps=0.1),
    "layer_norm-bare": lambda x: functional.layer_norm(x, (6, 8)),
    "layer_norm-shifted": lambda x: functional.layer_norm(x, (8,), CLASS.flatten()) + CLASS,
    "layer_norm-normed": lambda x: normed(functional.layer_norm(x[:, 0, 0, :4], (4,))),
    "batch_norm": lambda x: normed(functional.max_pool2d(x, 2)),
    "batch_norm-bare": lambda x: normed(x, affine=False),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x * 0.5, x + 1),
    "attention-masked": lambda x: functional.scaled_dot_product_attention(x, x * 0.5, x + 1, attn_mask=MASK, scale=0.7),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name: str) -> None:
    assert_lowered(lambda x: FUNCTIONS[name](x), *SHAPE)


@pytest.mark.parametrize("name", ["add", "mean_of_images", "avg_pool", "layer_norm-shifted", "batch_norm-bare", "attention"])
def test_operations_on_codes_see_their_values(name: str) -> None:
    assert_lowered(lambda x: FUNCTIONS[name](quantized(x)), *SHAPE)


def test_a_norm_behind_a_layer_norm_is_part_of_it() -> None:
    done = operations(assert_lowered(FUNCTIONS["layer_norm-normed"], *SHAPE))
    assert "BatchNormalization" not in done


def test_rows_of_a_table_that_hangs_on_the_input() -> None:
    assert_lowered(lambda x: x.reshape(-1, 8)[torch.tensor([[2, 0], [1, 3]])] * 2, *SHAPE)


SHIFTS = [torch.linspace(-0.3, 0.4, 8), torch.linspace(-0.3, 0.4, 6).reshape(6, 1)]


def test_shifts_add_up_and_stay_beside_codes() -> None:
    assert_lowered(lambda x: (quantized(x) + SHIFTS[0] + SHIFTS[1]).transpose(1, 2), *SHAPE)


@pytest.mark.parametrize("other", ["wider", "image", "number"])
def test_what_is_no_shift_is_a_sum(other: str) -> None:
    others: dict[str, Any] = {"wider": torch.linspace(0, 1, 6).reshape(1, 1, 6, 1), "image": torch.ones(1, 1, 1, 1, 1), "number": 0.3}
    done = operations(assert_lowered(lambda x: quantized(x[:, :, :1]) + others[other], *SHAPE))
    assert done[-1] == "Add"


def test_a_shift_beside_padding_is_added_to_it() -> None:
    kernel = weight(4, 4, 3, 3)

    def network(x: Tensor) -> Tensor:
        padded = functional.pad(quantized(x) + torch.full((1, 1, 1), 0.3), (1, 1, 1, 1))
        return functional.conv2d(padded, kernel()) + functional.conv2d(padded + torch.ones(1, 1, 1), kernel())

    assert_lowered(network, *SHAPE)
    assert_lowered(lambda x: functional.conv2d(functional.pad(quantized(x) + torch.full((1, 1, 1), 0.3), (1, 0, 0, 1)), kernel()), *SHAPE)


def test_a_quantizer_that_stands_at_two_places() -> None:
    """Tied ones give the same codes: behind a max pool nothing is left to do, behind a shift there is."""

    def network(x: Tensor) -> Tensor:
        pooled = quantized(functional.max_pool2d(quantized(x), 2))
        return quantized(pooled + SHIFTS[0][:4]) * 2

    assert operations(assert_lowered(network, *SHAPE)).count("QuantizeLinear") == 2


KERNEL, BESIDE = weight(4, 4, 3, 3), weight(4, 4, 1, 1, label="p")
BIAS = torch.linspace(-1, 1, 4)
SCALES = torch.tensor(0.2), torch.tensor(0.7), torch.tensor(0.9)


def block(x: Tensor, *, of_codes: bool) -> Tensor:
    """A residual block: a convolution with codes, what goes past it, and the codes of their sum."""
    start = quantized(x, SCALES[0], label="a")
    inside = quantized(functional.conv2d(start, KERNEL(), padding=1), SCALES[1], label="b")
    past = start if of_codes else functional.conv2d(start, BESIDE(), BIAS)
    return quantized(inside + past, SCALES[2], label="c") * 2


@pytest.mark.parametrize("of_codes", [True, False], ids=["codes", "floats"])
def test_transposes_beside_a_sum_cost_nothing(of_codes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network(x: Tensor) -> Tensor:
        return block(x, of_codes=of_codes)

    proto = assert_lowered(network, 4, 6, 6)
    done = kernels(proto, tmp_path)
    assert done.count("QLinearAdd") == of_codes
    monkeypatch.setattr(arithmetic, "_summand", lambda lowering, _, operand, where: lowering.float_of(operand, where))
    plain, _ = to_onnx(traced(network, 4, 6, 6), Container())
    assert operations(proto).count("Transpose") == operations(plain).count("Transpose") + 2
    assert sorted(done) == sorted(kernels(plain, tmp_path))


@pytest.mark.parametrize("of_codes", [True, False], ids=["codes", "floats"])
def test_openvino_rounds_in_front_of_a_sum_too(of_codes: bool) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install -e '.[openvino]'")
    proto, _ = to_onnx(traced(lambda x: block(x, of_codes=of_codes), 4, 6, 6), Container("int8"))
    x = torch.randn(3, 4, 6, 6).numpy()
    assert np.array_equal(open_session(proto, "openvino")(x)["logits"], run(proto, x)[0])


def test_a_weight_that_no_layer_multiplies_is_a_constant() -> None:
    matrix = weight(6, 8, kind="zero_point")
    assert_lowered(lambda x: x * matrix(), *SHAPE)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.add(x, x * 2, alpha=2), "a sum with alpha 2 has no ONNX form here; allowed: 1"),
        (lambda x: torch.rsub(x, 3, alpha=2), "a sum with alpha 2 has no ONNX form here; allowed: 1"),
        (lambda x: functional.adaptive_avg_pool2d(x, (2, 1)), r"average pooling to \[2, 1\] has no ONNX form here; allowed: to 1 x 1"),
        (lambda x: functional.avg_pool2d(x, 2, divisor_override=3), "average pooling with a divisor has no ONNX form; allowed: without"),
        (lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True), "causal, grouped or dropping attention"),
    ],
    ids=["alpha", "alpha_reversed", "adaptive", "divisor", "causal"],
)
def test_forms_that_are_not_written_are_one_line(function: Function, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        to_onnx(traced(function, *SHAPE), Container())
