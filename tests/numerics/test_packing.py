"""Codes packed at their width, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillbit.errors import ExportError
from stillbit.numerics.limits import code_limits
from stillbit.numerics.packing import pack, packed_length, unpack


@st.composite
def any_codes(draw: st.DrawFn) -> tuple[torch.Tensor, int, bool]:
    bits, signed = draw(st.integers(1, 8)), draw(st.booleans())
    numbers = draw(st.lists(st.integers(*code_limits(bits, signed=signed)), max_size=67))
    return torch.tensor(numbers, dtype=torch.int8 if signed else torch.uint8), bits, signed


@given(any_codes())
def test_codes_come_back_at_any_width_and_length(drawn: tuple[torch.Tensor, int, bool]) -> None:
    codes, bits, signed = drawn
    back = unpack(pack(codes, bits), bits, len(codes), signed=signed)
    assert back.dtype == codes.dtype
    assert torch.equal(back, codes)


@given(any_codes())
def test_bytes_are_the_little_endian_number_of_all_codes(drawn: tuple[torch.Tensor, int, bool]) -> None:
    codes, bits, signed = drawn
    low, _ = code_limits(bits, signed=signed)
    number = sum((code - low) << (place * bits) for place, code in enumerate(codes.tolist()))
    assert bytes(pack(codes, bits).tolist()) == number.to_bytes(packed_length(bits, len(codes)), "little")


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_of_a_width_comes_back_in_any_shape(bits: int) -> None:
    low, high = code_limits(bits, signed=True)
    codes = torch.arange(low, high + 1, dtype=torch.int8).repeat(15).reshape(3, 5, -1).mT
    assert torch.equal(unpack(pack(codes, bits), bits, codes.numel(), signed=True), codes.flatten())


def test_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(ExportError, match="codes are -4 to 4; allowed at 3 bits: -4 to 3"):
        pack(torch.tensor([-4, 4], dtype=torch.int8), 3)
    with pytest.raises(ExportError, match="width of codes is 9; allowed: 1 to 8 bits"):
        pack(torch.tensor([1], dtype=torch.uint8), 9)
    with pytest.raises(ExportError, match="3 codes of 3 bits are 2 bytes; given: 1"):
        unpack(torch.zeros(1, dtype=torch.uint8), 3, 3, signed=True)
