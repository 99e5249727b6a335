"""What is folded into a layer, and what is not: constants of other shapes, and outputs that something else reads."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.export.onnx.traced import Function, assert_lowered, operations, quantized, weight

COARSE = 1e-3  # of the output: a Gemm's bias is in units of its accumulator
MATRIX, KERNEL = weight(6, 8), weight(6, 8, 1, 1)
BY_CHANNEL = torch.linspace(-1, 1, 6)


def rows(x: Tensor) -> Tensor:
    return functional.linear(quantized(x), MATRIX())


def image(x: Tensor) -> Tensor:
    """(B, 6, 5, 1): codes behind it, so that the bias is the kernel's."""
    return functional.conv2d(quantized(x).transpose(1, 2).unsqueeze(3), KERNEL())


FOLDED: dict[str, Function] = {
    "channels": lambda x: rows(x) + BY_CHANNEL,
    "from_the_left": lambda x: BY_CHANNEL + rows(x),
    "one_for_all": lambda x: rows(x) + torch.ones(1),
    "heads": lambda x: rows(x).view(-1, 5, 2, 3) + BY_CHANNEL.reshape(2, 3),
    "heads-channels": lambda x: rows(x).view(-1, 5, 2, 3) + BY_CHANNEL[:3],
    "heads-one_each": lambda x: rows(x).view(-1, 5, 2, 3) + BY_CHANNEL[:2].reshape(1, 1, 2, 1),
    "twice": lambda x: (rows(x) + BY_CHANNEL).view(-1, 5, 2, 3) + BY_CHANNEL[:2].reshape(2, 1),
    "image": lambda x: quantized(image(x) + BY_CHANNEL.reshape(6, 1, 1), 0.37, label="b"),
}
LEFT: dict[str, Function] = {
    "tokens": lambda x: rows(x) + BY_CHANNEL[:5].reshape(5, 1),
    "numbers": lambda x: rows(x) + 2,
    "broadcast": lambda x: rows(x[:, :1]) + torch.linspace(0, 1, 5).reshape(5, 1),
    "more_axes": lambda x: rows(x) + torch.ones(1, 1, 1, 6),
    "heads-tokens": lambda x: rows(x).view(-1, 5, 2, 3) + BY_CHANNEL[:5].reshape(5, 1, 1),
    "heads-over_tokens": lambda x: rows(x).reshape(-1, 2, 15) + torch.linspace(0, 1, 15),
    "alpha": lambda x: torch.sub(rows(x), BY_CHANNEL),
    "image-columns": lambda x: quantized(image(x) + BY_CHANNEL[:5].reshape(5, 1), 0.37, label="b"),
    "image-views": lambda x: quantized(image(x).flatten(2) + BY_CHANNEL[:5], 0.37, label="b"),
    "two_readers": lambda x: torch.cat([(out := rows(x)) + BY_CHANNEL, out], 2),
}


@pytest.mark.parametrize("name", FOLDED)
def test_constants_by_channel_are_folded(name: str) -> None:
    assert "Add" not in operations(assert_lowered(lambda x: FOLDED[name](x), 5, 8, tolerance=COARSE))


@pytest.mark.parametrize("name", LEFT)
def test_other_sums_are_left(name: str) -> None:
    assert {"Add", "Sub"} & set(operations(assert_lowered(lambda x: LEFT[name](x), 5, 8, tolerance=COARSE)))


def test_a_norm_behind_a_view_is_left() -> None:
    """Its channels may be others than the layer's."""
    mean, variance = torch.linspace(-0.5, 0.5, 3), torch.linspace(0.5, 3, 3)
    done = operations(assert_lowered(lambda x: functional.batch_norm(image(x).view(-1, 3, 10), mean, variance, training=False), 5, 8))
    assert "BatchNormalization" in done


def test_a_quantizer_behind_a_view_of_turned_rows_is_where_it_was() -> None:
    """No permutation of axes gives the order of the rows back."""
    done = operations(assert_lowered(lambda x: quantized(rows(x).transpose(1, 2).reshape(-1, 2, 15), 0.37, label="b") + 1, 5, 8))
    assert done.index("Transpose", done.index("Gemm")) < done.index("Clip", done.index("Gemm"))
