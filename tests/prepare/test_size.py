"""Packed size: codes at their width, the rest as float32."""

from typing import Any

import pytest
import torch
from torch import nn

from stillbit.prepare import QuantConfig, prepare
from stillbit.prepare.size import code_bytes, float_bytes, packed_bytes
from stillbit.quantizers import weight_sites


@pytest.mark.parametrize(("bits", "middle"), [("W2A2", 2), ("W3A3", 3), ("W4A4", 4)])
def test_codes_take_their_width_and_pins_nothing(bits: str, middle: int) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Linear(5, 3))
    prepare(model, QuantConfig.parse(bits), example=torch.zeros(2, 4))
    codes = 4 * 6 + -(-6 * 5 * middle // 8) + 5 * 3  # first and last layer have 8 bits
    floats = (6 + 5 + 3) + 4 * 6 + (3 + 2)  # biases; batch norm; scales of three weights and two inputs
    assert packed_bytes(model) == codes + 4 * floats


def test_a_float_model_has_no_codes() -> None:
    assert packed_bytes(nn.Conv2d(2, 3, 3)) == 4 * (2 * 3 * 9 + 3)


@pytest.mark.parametrize("settings", [{}, {"quantizer": "statsq", "per_channel": True}, {"learned_shifts": True}], ids=str)
def test_in_float_a_model_has_the_size_that_it_had(settings: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Linear(5, 3))
    size = float_bytes(model)
    assert size == packed_bytes(model) == 4 * ((4 * 6 + 6) + 4 * 6 + (6 * 5 + 5) + (5 * 3 + 3))
    prepare(model, QuantConfig.parse("W3A3", **settings), example=torch.zeros(2, 4))
    assert float_bytes(model) == size


def test_codes_are_rounded_up_to_whole_bytes() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3))
    prepare(model, QuantConfig.parse("W3A3"), example=torch.zeros(2, 4))
    assert [code_bytes(site) for site in weight_sites(model)] == [24, 12, 15]  # 30 weights of 3 bits: 11.25 bytes
