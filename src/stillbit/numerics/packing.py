"""Codes at their true width: eight codes of b bits become b bytes.

The stream is little-endian throughout: code i takes bits `i * b` to `(i + 1) * b - 1`, and bit k is bit `k % 8` of byte `k // 8`.
Signed codes are stored by their distance from the lowest code (offset binary), so that -4..3 becomes 0..7. What is left of the last
byte is 0.
"""

import torch
from torch import Tensor

from stillbit.errors import ExportError
from stillbit.numerics.limits import code_limits

_GROUP = 8  # this many codes of b bits end at a byte, and fit one int64


def packed_length(bits: int, count: int) -> int:
    """Return the number of bytes that `count` codes take.

    >>> packed_length(3, 8), packed_length(3, 9)
    (3, 4)
    """
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes at their width.

    Args:
        codes: int8 for signed codes, uint8 for unsigned ones; any shape, taken in its order.
        bits: Width, 1 to 8.

    Returns:
        uint8, one axis of `packed_length(bits, codes.numel())` bytes.

    Raises:
        ExportError: If the width is another, or a code does not fit it.

    >>> pack(torch.tensor([-4, 3, 0], dtype=torch.int8), bits=3)  # 000, 111 and 100: 1 00.111.000
    tensor([56,  1], dtype=torch.uint8)
    """
    low, high = _limits(bits, signed=codes.dtype == torch.int8)
    flat, count = codes.reshape(-1), codes.numel()
    if count == 0:
        return torch.empty(0, dtype=torch.uint8)
    smallest, largest = int(flat.min()), int(flat.max())
    if smallest < low or largest > high:
        raise ExportError(f"codes are {smallest} to {largest}; allowed at {bits} bits: {low} to {high}")
    groups = torch.full((-(-count // _GROUP), _GROUP), low, dtype=codes.dtype)
    groups.view(-1)[:count] = flat
    words = torch.zeros(len(groups), dtype=torch.int64)
    for place in range(_GROUP):
        words |= (groups[:, place].to(torch.int64) - low) << (place * bits)
    return _bytes_of(words, bits).reshape(-1)[: packed_length(bits, count)].contiguous()


def unpack(packed: Tensor, bits: int, count: int, *, signed: bool) -> Tensor:
    """Return the codes that `pack` was given.

    Args:
        packed: uint8, one axis.
        bits: Width, 1 to 8.
        count: Number of codes.
        signed: Whether they were int8.

    Returns:
        int8 or uint8, one axis of `count` codes.

    Raises:
        ExportError: If the width is another, or the bytes are too few or too many for as many codes.

    >>> unpack(torch.tensor([56, 1], dtype=torch.uint8), bits=3, count=3, signed=True)
    tensor([-4,  3,  0], dtype=torch.int8)
    """
    low, _ = _limits(bits, signed=signed)
    if packed.numel() != packed_length(bits, count):
        raise ExportError(f"{count} codes of {bits} bits are {packed_length(bits, count)} bytes; given: {packed.numel()}")
    padded = torch.zeros(-(-count // _GROUP), bits, dtype=torch.uint8)
    padded.view(-1)[: packed.numel()] = packed
    words = torch.zeros(len(padded), dtype=torch.int64)
    for place in range(bits):
        words |= padded[:, place].to(torch.int64) << (place * 8)
    mask, dtype = 2**bits - 1, torch.int8 if signed else torch.uint8
    codes = torch.stack([(((words >> (place * bits)) & mask) + low).to(dtype) for place in range(_GROUP)], dim=1)
    return codes.reshape(-1)[:count].clone()


def _bytes_of(words: Tensor, count: int) -> Tensor:
    return torch.stack([((words >> (8 * place)) & 255).to(torch.uint8) for place in range(count)], dim=1)


def _limits(bits: int, *, signed: bool) -> tuple[int, int]:
    if bits not in range(1, 9):
        raise ExportError(f"width of codes is {bits!r}; allowed: 1 to 8 bits")
    return code_limits(bits, signed=signed)
