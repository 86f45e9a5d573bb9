"""What the parts of a result have in common: one array, a row for each object, and moves between kinds of memory.

Written from spec/interface.md 8.3 and spec/dropin.md 4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray
P = TypeVar("P", bound="Part")


class Part:
    """Rows of one image, one for each object. The length is the number of rows; a part without rows is false.

    data (Tensor or ndarray): the rows. orig_shape: (h, w) of the image in pixels. All attributes are of the kind of
    data, on its device. An index, a slice, a mask or a list of indices gives a part with those rows.

    A class says the number of axes of its data in `ndim`, and in `shown` the attributes that are printed.
    """

    ndim: ClassVar[int] = 2
    shown: ClassVar[tuple[str, ...]] = ("data", "orig_shape", "shape")

    def __init__(self, data: Array, orig_shape: tuple[int, int] | None):
        data = data if isinstance(data, (Tensor, np.ndarray)) else torch.as_tensor(data, dtype=torch.float32)
        data = data[None] if data.ndim == self.ndim - 1 else data
        if problem := self._problem(data):
            raise ValueError(f"{type(self).__name__} have shape {tuple(data.shape)}, expected {problem}")
        self.data: Array = data
        self.orig_shape: tuple[int, int] | None = None if orig_shape is None else tuple(orig_shape)

    def _problem(self, data: Array) -> str:
        """Return the shape that was expected; empty where the data have it."""
        return "" if data.ndim == self.ndim else f"{self.ndim} axes"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self: P, index) -> P:
        return self._of(self.data[as_index(index, self.data)])

    def __iter__(self: P) -> Iterator[P]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        lines = (f"{name}: {getattr(self, name)!r}" for name in sorted(self.shown))
        return f"{qualified_name(self)} object with attributes:\n\n" + "\n".join(lines)

    def _of(self: P, data: Array) -> P:
        """Return the same kind of part with other data."""
        other = copy.copy(self)
        Part.__init__(other, data, self.orig_shape)
        return other

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of data."""
        return tuple(self.data.shape)

    def cpu(self: P) -> P:
        """Return the same rows in the CPU's memory; numpy arrays are there already."""
        return self if isinstance(self.data, np.ndarray) else self.to("cpu")

    def numpy(self: P) -> P:
        """Return the same rows as numpy arrays."""
        return self if isinstance(self.data, np.ndarray) else self._of(as_numpy(self.data))

    def cuda(self: P, device: int | str | torch.device | None = None) -> P:
        """Return the same rows as tensors on a GPU, the current one if none is named."""
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device or "cuda")

    def to(self: P, *args, **kwargs) -> P:
        """Return the same rows as tensors on another device or of another type, as Tensor.to."""
        return self._of(torch.as_tensor(self.data).to(*args, **kwargs))

    def _through(self, function: Callable[[Tensor], Tensor], value: Array) -> Array:
        """Apply a function of tensors to a value of the kind of data; the result is of that kind too."""
        changed = function(torch.as_tensor(value))
        return changed.numpy() if isinstance(value, np.ndarray) else changed

    def _over_size(self, value: Array) -> Array:
        """Divide x by the image's width and y by its height, in an array (..., 2 k) of x, y, x, y, ..."""
        height, width = self.orig_shape
        size = [width, height] * (value.shape[-1] // 2)
        if isinstance(value, np.ndarray):
            return value / np.asarray(size, value.dtype)
        return value / value.new_tensor(size)


def qualified_name(thing: object) -> str:
    """Return module and class of an object, as its printed form begins."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a numpy array in the CPU's memory; bfloat16, which numpy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_index(index, data: Array):
    """Return an index that both kinds of arrays take: tensors know no negative steps, numpy no tensors."""
    if isinstance(index, slice):
        index = list(range(*index.indices(len(data))))
    index = list(index) if isinstance(index, range) else index
    if isinstance(index, list) and not index:
        return slice(0)
    if isinstance(data, np.ndarray) and isinstance(index, Tensor):
        return index.cpu().numpy()
    return index
