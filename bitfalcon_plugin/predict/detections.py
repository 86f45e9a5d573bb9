"""The detections of one image as a public object, in pixels of the image. Written from spec/interface.md 8.3."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..ops.boxes import xywh_from_xyxy


class Boxes:
    """Detections of one image, one a row. The length is the number of rows; Boxes without rows are false.

    data (Tensor or ndarray [n, 6]): x1, y1, x2, y2 in pixels of the original image, score in [0, 1], class; or [n, 7]
    with the number of a track before the score. A single row may be given as (6,) or (7,). orig_shape: (h, w) of the
    image. All attributes are of the kind of data, on its device. An index, a slice, a mask or a list of indices gives
    Boxes of those rows. Raises ValueError for data of another shape.
    """

    def __init__(self, data: Tensor | np.ndarray, orig_shape: tuple[int, int]):
        data = data if isinstance(data, (Tensor, np.ndarray)) else torch.as_tensor(data, dtype=torch.float32)
        data = data[None] if data.ndim == 1 else data
        if data.ndim != 2 or data.shape[1] not in (6, 7):
            raise ValueError(
                f"Boxes have shape {tuple(data.shape)}, expected (n, 6): x1 y1 x2 y2 score class, or (n, 7): "
                "x1 y1 x2 y2 id score class"
            )
        self.data, self.orig_shape = data, tuple(orig_shape)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index) -> Boxes:
        if isinstance(index, slice):  # tensors know no negative steps
            index = list(range(*index.indices(len(self))))
        index = list(index) if isinstance(index, range) else index
        if isinstance(index, list) and not index:
            return Boxes(self.data[:0], self.orig_shape)
        if isinstance(self.data, np.ndarray) and isinstance(index, Tensor):
            index = index.cpu().numpy()
        return Boxes(self.data[index], self.orig_shape)

    def __iter__(self) -> Iterator[Boxes]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Boxes({len(self)} in {self.orig_shape[0]}x{self.orig_shape[1]})"

    @property
    def xyxy(self) -> Tensor | np.ndarray:
        """(n, 4) corners in pixels."""
        return self.data[:, :4]

    @property
    def conf(self) -> Tensor | np.ndarray:
        """(n,) scores in [0, 1]."""
        return self.data[:, -2]

    @property
    def cls(self) -> Tensor | np.ndarray:
        """(n,) class indices, as floats."""
        return self.data[:, -1]

    @property
    def id(self) -> Tensor | np.ndarray | None:
        """(n,) numbers of the tracks, as floats; None where nothing was tracked."""
        return self.data[:, 4] if self.is_track else None

    @property
    def is_track(self) -> bool:
        """Whether the rows carry the numbers of tracks."""
        return self.data.shape[1] == 7

    @property
    def xywh(self) -> Tensor | np.ndarray:
        """(n, 4) centre and size in pixels."""
        xywh = xywh_from_xyxy(torch.as_tensor(self.xyxy))
        return xywh.numpy() if isinstance(self.data, np.ndarray) else xywh

    @property
    def xyxyn(self) -> Tensor | np.ndarray:
        """(n, 4) corners over the image's width and height."""
        return self.xyxy / self._size()

    @property
    def xywhn(self) -> Tensor | np.ndarray:
        """(n, 4) centre and size over the image's width and height."""
        return self.xywh / self._size()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of data."""
        return tuple(self.data.shape)

    def cpu(self) -> Boxes:
        """Return the same boxes in the CPU's memory; numpy arrays are there already."""
        return self if isinstance(self.data, np.ndarray) else self.to("cpu")

    def numpy(self) -> Boxes:
        """Return the same boxes as numpy arrays."""
        if isinstance(self.data, np.ndarray):
            return self
        data = self.data.detach().cpu()
        data = data.float() if data.dtype == torch.bfloat16 else data  # numpy has no bfloat16
        return Boxes(data.numpy(), self.orig_shape)

    def cuda(self, device: int | str | torch.device | None = None) -> Boxes:
        """Return the same boxes as tensors on a GPU, the current one if none is named."""
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device or "cuda")

    def to(self, *args, **kwargs) -> Boxes:
        """Return the same boxes as tensors on another device or of another type, as Tensor.to."""
        return Boxes(torch.as_tensor(self.data).to(*args, **kwargs), self.orig_shape)

    def _size(self) -> Tensor | np.ndarray:
        height, width = self.orig_shape
        size = [width, height, width, height]
        if isinstance(self.data, np.ndarray):
            return np.asarray(size, self.data.dtype)
        return self.data.new_tensor(size)
