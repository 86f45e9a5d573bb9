"""Weights of -1, 0 and 1 in few bits: five in a byte in base 3, or four in a byte with two bits each.

Base 3 is that of llama.cpp's TQ1_0 (1.6 bits a weight, where log2 3 = 1.585 is the least); two bits are what runtimes with
kernels of their own read. A byte that no weights give is an error, and so is padding that is not zero (spec/bit.md section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codec:
    """A way to write trits. count: in one byte; table: byte -> its trits (int8, 256 x count); wrong: bytes -> which mean nothing."""

    count: int
    step: int
    table: Tensor
    wrong: Callable[[Tensor], Tensor]


def _table(count: int, step: int) -> Tensor:
    # byte = sum of (trit + 1) * step**i; of bytes that mean nothing the rows are not used
    with torch.device("cpu"):
        return torch.stack([(torch.arange(256) // step**place % step - 1).to(torch.int8) for place in range(count)], 1)


FORMATS = {
    "t5": Codec(5, 3, _table(5, 3), lambda data: data >= 3**5),
    "t2": Codec(4, 4, _table(4, 4), lambda data: (data & (data >> 1) & 0x55) > 0),  # a pair of bits that are both set
}


def bytes_of(count: int, fmt: str) -> int:
    """Bytes that `count` trits take."""
    return -(-count // FORMATS[fmt].count)


def pack_trits(trits: Tensor, fmt: str = "t5") -> Tensor:
    """Trits (any shape, whole numbers -1, 0, 1) -> uint8 (bytes_of(count)); the last byte is filled up with zeros.

    ValueError for other numbers.
    """
    codec, flat = FORMATS[fmt], trits.detach().cpu().flatten()
    if flat.numel() and not ((flat >= -1) & (flat <= 1) & (flat == flat.round())).all():
        raise ValueError("weights that are not -1, 0 or 1")
    digits = torch.ones(bytes_of(len(flat), fmt) * codec.count, dtype=torch.uint8)
    digits[: len(flat)] = (flat.to(torch.int8) + 1).view(torch.uint8)
    columns = digits.view(-1, codec.count).unbind(1)
    packed = columns[-1].clone()
    for column in reversed(columns[:-1]):
        packed.mul_(codec.step).add_(column)  # at most 242 or 170: never beyond a byte
    return packed


def unpack_all(data: Tensor, fmt: str = "t5") -> Tensor:
    """Bytes (n) -> every trit they hold, padding too (int8, n * count). ValueError names the first byte that means nothing."""
    codec = FORMATS[fmt]
    if (wrong := codec.wrong(data)).any():
        place = int(wrong.to(torch.uint8).argmax())
        raise ValueError(f"byte {int(data[place])} at place {place} stands for no weights")
    return codec.table.index_select(0, data.int()).flatten()


def unpack_trits(data: Tensor, count: int, fmt: str = "t5") -> Tensor:
    """Bytes of pack_trits -> int8 (count). ValueError where they are too many or few, mean nothing, or the padding is not zero."""
    if data.dtype != torch.uint8 or data.ndim != 1 or len(data) != bytes_of(count, fmt):
        raise ValueError(
            f"{count} weights take {bytes_of(count, fmt)} bytes, not {tuple(data.shape)} of {str(data.dtype)[6:]}"
        )
    trits = unpack_all(data, fmt)
    if trits[count:].any():
        raise ValueError("padding that is not zero")
    return trits[:count]
