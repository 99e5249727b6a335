"""Products of two activations, with a scale for all or one per row or column, and learned shifts on either side."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.export.onnx.traced import Function, assert_lowered, operations, quantized

ROWS, WIDTH = 5, 6


def along(axis: int | None) -> dict[str, Any]:
    """A grid of the factors (B, 2, 5, 6) with scales along an axis, or one for all and a zero point."""
    if axis is None:
        return {}
    shape = [1, 1, 1, 1]
    shape[axis] = (2, ROWS, WIDTH)[axis - 1]
    return {"scale": torch.linspace(0.1, 0.5, shape[axis]).reshape(shape), "zero_point": None, "low": -4, "high": 3}


def product(left: dict[str, Any] | None, right: dict[str, Any] | None, shifts: tuple[Any, Any] = (None, None)) -> Function:
    def network(x: Tensor) -> Tensor:
        first = x if left is None else quantized(x, **left)
        second = x.flip(0) * 0.7 if right is None else quantized(x * 0.7 + 0.2, label="b", **right)
        first = first if shifts[0] is None else first + shifts[0]
        second = second if shifts[1] is None else second + shifts[1]
        return first @ second.transpose(-1, -2)

    return network


@pytest.mark.parametrize("right", [None, 1, 2, 3])
@pytest.mark.parametrize("left", [None, 1, 2, 3])
def test_scales(left: int | None, right: int | None) -> None:
    """Along what is summed (axis 3) they allow no integer product."""
    done = operations(assert_lowered(product(along(left), along(right)), 2, ROWS, WIDTH))
    assert ("MatMulInteger" in done) == (3 not in (left, right) and (left, right) != (None, None))


SHIFTS = {
    "none": None,
    "channels": torch.linspace(-0.3, 0.4, WIDTH),
    "tokens": torch.linspace(-0.3, 0.4, ROWS).reshape(ROWS, 1),
    "both": torch.linspace(-0.3, 0.4, 2 * ROWS * WIDTH).reshape(2, ROWS, WIDTH),
}


@pytest.mark.parametrize("right", SHIFTS)
@pytest.mark.parametrize("left", SHIFTS)
@pytest.mark.parametrize("axis", [None, 2], ids=["tensor", "token"])
def test_learned_shifts_are_products_of_their_own(axis: int | None, left: str, right: str) -> None:
    network = product(along(axis), along(axis), (SHIFTS[left], SHIFTS[right]))
    done = operations(assert_lowered(network, 2, ROWS, WIDTH))
    assert ("MatMulInteger" in done) == (axis is not None)


def test_batches_of_matrices() -> None:
    assert_lowered(lambda x: torch.bmm(quantized(x), quantized(x.mT * 0.7, label="b")), ROWS, WIDTH)
