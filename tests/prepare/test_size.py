"""Packed size: codes at their width, the rest as float32."""

import pytest
import torch
from torch import nn

from stillbit.prepare import QuantConfig, prepare
from stillbit.prepare.size import packed_bytes


@pytest.mark.parametrize(("bits", "middle"), [("W2A2", 2), ("W3A3", 3), ("W4A4", 4)])
def test_codes_take_their_width_and_pins_nothing(bits: str, middle: int) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Linear(5, 3))
    prepare(model, QuantConfig.parse(bits), example=torch.zeros(2, 4))
    codes = 4 * 6 + -(-6 * 5 * middle // 8) + 5 * 3  # first and last layer have 8 bits
    floats = (6 + 5 + 3) + 4 * 6 + (3 + 2)  # biases; batch norm; scales of three weights and two inputs
    assert packed_bytes(model) == codes + 4 * floats


def test_a_float_model_has_no_codes() -> None:
    assert packed_bytes(nn.Conv2d(2, 3, 3)) == 4 * (2 * 3 * 9 + 3)
