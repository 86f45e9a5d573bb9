"""Lists of paths, sizes and fits in one tensor each, for loader processes.

A process that is forked shares the memory of its parent until one of them writes there. Reading an object of Python
writes its reference count, so that a process that reads a million paths ends with a copy of each. Tensors are read
without being written, and go to spawned processes as shared memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import overload

import torch

from ...ops.letterbox import Fit


class PackedPaths(Sequence):
    """Paths as one tensor of bytes."""

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._ends = torch.tensor([0, *map(len, encoded)], dtype=torch.int64).cumsum(0)
        self._bytes = torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        start, end = self._ends[range(len(self))[index] :][:2].tolist()
        return os.fsdecode(self._bytes[start:end].numpy().tobytes())


class PackedSizes(Sequence):
    """Sizes (h, w) as one tensor."""

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self._sizes = torch.tensor(list(sizes), dtype=torch.int32).view(-1, 2)

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, index):
        rows = self._sizes[index].tolist()
        return tuple(rows) if isinstance(index, int) else [tuple(row) for row in rows]


class PackedFits(Sequence):
    """Fits as one tensor."""

    def __init__(self, fits: Sequence[Fit]) -> None:
        rows = [(*fit.original, *fit.resized, *fit.canvas, *fit.pad) for fit in fits]
        self._fits = torch.tensor(rows, dtype=torch.int32).view(-1, 8)

    def __len__(self) -> int:
        return len(self._fits)

    @overload
    def __getitem__(self, index: int) -> Fit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fit]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        row = self._fits[index].tolist()
        return Fit(*(tuple(row[at : at + 2]) for at in range(0, 8, 2)))
