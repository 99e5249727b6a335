"""What moves elements moves codes, and their scales and shifts with them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.export.onnx.traced import Function, assert_lowered, operations, quantized, weight

SHAPE = (4, 6, 8)
GRIDS: dict[str, dict[str, Any]] = {
    "tensor": {},
    "token": {"scale": torch.linspace(0.1, 0.6, 6).reshape(1, 1, 6, 1), "low": -4, "high": 3, "zero_point": None},
    "two_axes": {"scale": torch.linspace(0.1, 0.6, 24).reshape(1, 4, 6, 1), "low": -4, "high": 3, "zero_point": None},
}
SHIFT = torch.linspace(-0.3, 0.3, 32).reshape(4, 1, 8)

MOVEMENTS: dict[str, Function] = {
    "flatten": lambda x: x.flatten(2),
    "reshape": lambda x: x.reshape(x.shape[0], 2, 12, 8),
    "unsqueeze": lambda x: x.unsqueeze(2),
    "squeeze": lambda x: x[:, :, 2:3].squeeze(2),
    "squeeze-several": lambda x: x[:, 1:2, 2:3].squeeze((1, 2)),
    "unflatten": lambda x: x.unflatten(1, (2, -1)),
    "contiguous": lambda x: x.transpose(1, 2).contiguous(),
    "permute": lambda x: x.permute(0, 2, -1, 1),
    "transpose": lambda x: x.transpose(1, -1),
    "mT": lambda x: x.mT,
    "slice": lambda x: x[:, 1:3],
    "steps": lambda x: x[:, :, 1:6:2],
    "from_the_end": lambda x: x[:, :, -4:-1],
    "select": lambda x: x[:, :, 2],
    "select_last": lambda x: x[:, :, -1],
    "chunk": lambda x: torch.cat(x.chunk(3, -1)[::-1], 3),
    "split": lambda x: torch.cat(x.split(4, 2)[::-1], 2),
    "split_with_sizes": lambda x: torch.cat(x.split([1, 5], 2)[::-1], 2),
    "unbind": lambda x: torch.cat([x.unbind(2)[4], x.unbind(2)[1]], 1),
    "one_of_unbind": lambda x: x.unbind(1)[3],
    "select_from_the_end": lambda x: x.select(-2, 1),
    "roll": lambda x: x.roll((1, -2), (2, 3)),
    "roll_by_nothing": lambda x: x.roll((6, -8), (2, 3)),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", MOVEMENTS)
def test_codes_stay_codes(name: str, grid: str) -> None:
    def network(x: Tensor) -> Tensor:
        moved: Tensor = MOVEMENTS[name](quantized(x, **GRIDS[grid]) + SHIFT)
        return moved

    done = operations(assert_lowered(network, *SHAPE))
    back = done.index("DequantizeLinear" if "DequantizeLinear" in done else "Cast")
    assert set(done[:back]) & {"Reshape", "Transpose", "Slice", "Gather"} or name == "roll_by_nothing"
    assert ("Concat" in done) == (name in ("roll", "chunk", "split", "split_with_sizes", "unbind"))


@pytest.mark.parametrize("grid", GRIDS)
def test_several_scales_become_floats_where_tokens_join_the_batch(grid: str) -> None:
    """Windows are taken so; the scales of a batch of one say nothing of them, but one scale is one scale."""
    done = operations(assert_lowered(lambda x: quantized(x, **GRIDS[grid]).reshape(-1, 6, 8) * 2, *SHAPE))
    floats = done.index("DequantizeLinear" if "DequantizeLinear" in done else "Cast")
    assert (done.index("Reshape") < floats) == (grid == "tensor")


def test_rows_and_columns_change_places() -> None:
    scale = torch.linspace(0.1, 0.5, 5).reshape(1, 5)
    assert_lowered(lambda x: quantized(x, scale, zero_point=None).t() + 1, 5)


def test_a_movement_of_floats_behind_padding_sees_the_padding() -> None:
    """Left to the convolution by one reader only, so here it is done."""
    kernel = weight(4, 4, 3, 3)

    def network(x: Tensor) -> Tensor:
        padded = functional.pad(quantized(x), (1, 2, 0, 1))
        return functional.conv2d(padded, kernel()) + padded[:, :, 1:6, 2:11]

    assert_lowered(network, *SHAPE)


@pytest.mark.parametrize(
    ("sizes", "mode", "value"),
    [
        ((1, 2, 3, 4), "constant", 0.0),
        ((1, 2), "constant", 0.0),
        ((1, 2, 3, 4), "constant", 0.7),
        ((-1, 2, 0, -2), "constant", 0.0),
        ((1, 2, 0, 3), "reflect", None),
        ((1, 2, 0, 3), "replicate", None),
        ((1, 2, 0, 3), "circular", None),
        ((1, 0, 0, 1, 2, 1), "constant", 0.0),
    ],
)
def test_padding(sizes: tuple[int, ...], mode: str, value: float | None) -> None:
    def padded(x: Tensor) -> Tensor:
        return functional.pad(quantized(x), sizes, mode, value)

    assert_lowered(lambda x: padded(x) * 2, *SHAPE)
    kernel = weight(5, 4 + sum(sizes[4:]), 3, 3)
    proto = assert_lowered(lambda x: functional.conv2d(padded(x), kernel()), *SHAPE)
    (conv,) = (node for node in proto.graph.node if node.op_type == "Conv")
    own = mode == "constant" and not value and min(sizes) >= 0 and len(sizes) < 6
    assert ("Pad" not in operations(proto)) == own
    left, right, top, bottom = [*sizes, 0, 0][:4] if own else (0, 0, 0, 0)
    assert next(list(one.ints) for one in conv.attribute if one.name == "pads") == [top, left, bottom, right]


def test_paddings_of_the_network_and_of_a_layer_add_up() -> None:
    kernel = weight(5, 4, 3, 3)

    def network(x: Tensor) -> Tensor:
        padded = functional.pad(functional.pad(quantized(x), (1, 0, 2, 0), value=0.1), (0, 1, 0, 3))
        return functional.conv2d(padded, kernel(), padding=(1, 2))

    assert operations(assert_lowered(network, *SHAPE)).count("Pad") == 1


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    "pool",
    [
        lambda x: functional.max_pool2d(x, 2),
        lambda x: functional.max_pool2d(x, (3, 2), stride=(2, 1), padding=1),
        lambda x: functional.max_pool2d(x, 2, stride=2, dilation=(1, 2)),
        lambda x: functional.max_pool2d(x, 3, stride=2, ceil_mode=True),
    ],
    ids=["plain", "padded", "dilated", "ceil"],
)
def test_max_pools(pool: Function, grid: str) -> None:
    done = operations(assert_lowered(lambda x: pool(quantized(x, **GRIDS[grid])), *SHAPE))
    assert (done[-1] == "MaxPool") == (grid != "tensor")


def test_a_max_pool_sees_padding() -> None:
    kernel = weight(4, 4, 1, 1)

    def network(x: Tensor) -> Tensor:
        padded = functional.pad(quantized(x, low=0, high=3, zero_point=3), (1, 1, 1, 1))
        return functional.conv2d(padded, kernel()) + functional.max_pool2d(padded, 1)

    assert_lowered(network, *SHAPE)
