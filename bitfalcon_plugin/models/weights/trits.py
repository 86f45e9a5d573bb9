"""Weights of -1, 0 and 1 in few bits: five in a byte in base 3, or four in a byte with two bits each.

A trit is one such weight. Base 3 is the layout of llama.cpp's TQ1_0 (1.6 bits a weight; log2 3 = 1.585 is the minimum);
runtimes with kernels of their own read two bits. A byte that stands for no weights is an error, and so is padding that
is not zero (spec/bit.md section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codec:
    """A way to write trits into bytes.

    count: trits in one byte. base: of the digits of a byte; a digit is a trit plus 1. table (256, count) int8: the
    trits of each byte. invalid: bytes (n,) -> mask of the bytes that stand for no trits.
    """

    count: int
    base: int
    table: Tensor
    invalid: Callable[[Tensor], Tensor]


def _table(count: int, base: int) -> Tensor:
    # byte = sum of (trit + 1) * base**i; the entries of invalid bytes are not used
    with torch.device("cpu"):
        digits = [torch.arange(256) // base**index % base for index in range(count)]
        return (torch.stack(digits, 1) - 1).to(torch.int8)


CODECS = {
    "t5": Codec(5, 3, _table(5, 3), lambda data: data >= 3**5),
    "t2": Codec(4, 4, _table(4, 4), lambda data: (data & (data >> 1) & 0x55) > 0),  # a pair of bits that are both set
}


def byte_count(count: int, fmt: str) -> int:
    """Return how many bytes `count` trits take."""
    return -(-count // CODECS[fmt].count)


def pack_trits(trits: Tensor, fmt: str = "t5") -> Tensor:
    """Pack trits (any shape, whole numbers -1, 0, 1) into uint8 (byte_count(n),); zeros fill up the last byte.

    ValueError for other numbers.
    """
    codec, flat = CODECS[fmt], trits.detach().cpu().flatten()
    if flat.numel() and not ((flat >= -1) & (flat <= 1) & (flat == flat.round())).all():
        raise ValueError("weights that are not -1, 0 or 1")
    digits = torch.ones(byte_count(len(flat), fmt) * codec.count, dtype=torch.uint8)
    digits[: len(flat)] = (flat.to(torch.int8) + 1).view(torch.uint8)
    columns = digits.view(-1, codec.count).unbind(1)
    packed = columns[-1].clone()
    for column in reversed(columns[:-1]):
        packed.mul_(codec.base).add_(column)  # at most 242 or 170: never beyond a byte
    return packed


def unpack_all(data: Tensor, fmt: str = "t5") -> Tensor:
    """Unpack bytes (n,) to int8 (n * count,), padding too. ValueError names the first invalid byte."""
    codec = CODECS[fmt]
    if (invalid := codec.invalid(data)).any():
        position = int(invalid.to(torch.uint8).argmax())
        raise ValueError(f"byte {int(data[position])} at position {position} stands for no weights")
    return codec.table.index_select(0, data.int()).flatten()


def unpack_trits(data: Tensor, count: int, fmt: str = "t5") -> Tensor:
    """Unpack the bytes of `pack_trits` to int8 (count,). ValueError for a wrong length, invalid bytes or padding."""
    if data.dtype != torch.uint8 or data.ndim != 1 or len(data) != byte_count(count, fmt):
        raise ValueError(
            f"{count} weights take {byte_count(count, fmt)} bytes, not {tuple(data.shape)} of {str(data.dtype)[6:]}"
        )
    trits = unpack_all(data, fmt)
    if trits[count:].any():
        raise ValueError("padding that is not zero")
    return trits[:count]
