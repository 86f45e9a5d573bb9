"""Five ternary weights in a byte, or four: against bytes that are made one after the other."""

from __future__ import annotations

import random

import pytest
import torch

from bitfalcon_plugin.models.weights.trits import CODECS, byte_count, pack_trits, unpack_trits


def bytes_of(trits: list[int], fmt: str) -> list[int]:
    """Return the bytes of trits by the formula."""
    count, step = (5, 3) if fmt == "t5" else (4, 4)
    padded = [*trits, *[0] * (-len(trits) % count)]
    return [
        sum((trit + 1) * step**index for index, trit in enumerate(padded[at : at + count]))
        for at in range(0, len(padded), count)
    ]


@pytest.mark.parametrize("fmt", CODECS)
def test_any_number_of_trits_comes_back_from_its_bytes(fmt):
    draw = random.Random(0)
    for count in (*range(0, 33), 1000, 1001):
        trits = [draw.randint(-1, 1) for _ in range(count)]
        data = pack_trits(torch.tensor(trits, dtype=torch.int8), fmt)
        assert data.tolist() == bytes_of(trits, fmt) and len(data) == byte_count(count, fmt)
        back = unpack_trits(data, count, fmt)
        assert back.tolist() == trits and back.dtype == torch.int8


@pytest.mark.parametrize(
    "fmt, wrong",
    [("t5", range(243, 256)), ("t2", [v for v in range(256) if 3 in (v & 3, v >> 2 & 3, v >> 4 & 3, v >> 6)])],
)
def test_invalid_bytes_are_errors(fmt, wrong):
    count = CODECS[fmt].count
    for value in range(256):
        data = torch.tensor([0, value], dtype=torch.uint8)
        if value in wrong:
            with pytest.raises(ValueError, match=f"byte {value} at position 1"):
                unpack_trits(data, 2 * count, fmt)
        else:
            assert torch.equal(pack_trits(unpack_trits(data, 2 * count, fmt), fmt), data)


@pytest.mark.parametrize("fmt", CODECS)
def test_lengths_and_padding_are_checked(fmt):
    count = CODECS[fmt].count
    data = pack_trits(torch.ones(count), fmt)
    for number in (0, count + 1, 2 * count):
        with pytest.raises(ValueError, match="bytes"):
            unpack_trits(data, number, fmt)
    with pytest.raises(ValueError, match="padding"):
        unpack_trits(data, count - 1, fmt)
    with pytest.raises(ValueError, match="bytes"):
        unpack_trits(data.float(), count, fmt)
    for other in (
        torch.tensor([2]),
        torch.tensor([0.5]),
        torch.tensor([float("nan")]),
        torch.tensor([-128], dtype=torch.int8),
    ):
        with pytest.raises(ValueError, match="not -1, 0 or 1"):
            pack_trits(other, fmt)
