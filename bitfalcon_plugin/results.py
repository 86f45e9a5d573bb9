"""What a user gets back of an image: boxes in its own pixels, names, and a picture with them drawn in.

The attributes of spec/interface.md 8.3 that detection needs; the whole contract of that section is a later step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .boxes import xywh_from_xyxy
from .drawing import draw_boxes, picture_of
from .files import atomic


class Boxes:
    """Detections of one image. data (Tensor[n, 6]): x1, y1, x2, y2 in pixels of the original image, score, class."""

    id = None
    is_track = False

    def __init__(self, data: Tensor, orig_shape: tuple[int, int]):
        self.data, self.orig_shape = data, orig_shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index) -> Boxes:
        rows = self.data[index]
        return Boxes(rows[None] if rows.ndim == 1 else rows, self.orig_shape)

    def __repr__(self) -> str:
        return f"Boxes({len(self)} in {self.orig_shape[0]}x{self.orig_shape[1]})"

    @property
    def xyxy(self) -> Tensor:
        """(n, 4) corners in pixels."""
        return self.data[:, :4]

    @property
    def conf(self) -> Tensor:
        """(n,) scores in [0, 1]."""
        return self.data[:, 4]

    @property
    def cls(self) -> Tensor:
        """(n,) class indices, as floats."""
        return self.data[:, 5]

    @property
    def xywh(self) -> Tensor:
        """(n, 4) centre and size in pixels."""
        boxes = torch.as_tensor(self.xyxy)
        return self._like(xywh_from_xyxy(boxes))

    @property
    def xyxyn(self) -> Tensor:
        """(n, 4) corners over the image's width and height."""
        return self.xyxy / self._size()

    @property
    def xywhn(self) -> Tensor:
        """(n, 4) centre and size over the image's width and height."""
        return self.xywh / self._size()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of data."""
        return tuple(self.data.shape)

    def cpu(self) -> Boxes:
        """The same boxes in the CPU's memory."""
        return self.to("cpu")

    def numpy(self) -> Boxes:
        """The same boxes as numpy arrays."""
        return self if isinstance(self.data, np.ndarray) else Boxes(self.data.cpu().numpy(), self.orig_shape)

    def to(self, *args, **kwargs) -> Boxes:
        """The same boxes on another device or in another type, as Tensor.to."""
        return Boxes(torch.as_tensor(self.data).to(*args, **kwargs), self.orig_shape)

    def _size(self):
        height, width = self.orig_shape
        size = torch.tensor([width, height, width, height], dtype=torch.float32)
        return size.numpy() if isinstance(self.data, np.ndarray) else size.to(self.data.device)

    def _like(self, value: Tensor):
        return value.numpy() if isinstance(self.data, np.ndarray) else value


class Results:
    """One image and what was found in it.

    orig_img (ndarray[H, W, 3]): BGR uint8. orig_shape: (h, w). path: of the image. speed: milliseconds of preprocess,
    inference and postprocess. boxes: Boxes. masks, probs, keypoints and obb belong to other tasks and are None.
    """

    masks = probs = keypoints = obb = None

    def __init__(self, orig_img: np.ndarray, path: str, names: Mapping[int, str], boxes: Tensor,
                 speed: Mapping[str, float] | None = None):
        self.orig_img, self.path, self.names = orig_img, path, dict(names)
        self.orig_shape: tuple[int, int] = tuple(orig_img.shape[:2])
        self.boxes = Boxes(boxes, self.orig_shape)
        self.speed = dict(speed or {})

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"Results({self.path!r}, {self.orig_shape[0]}x{self.orig_shape[1]}: {self.verbose().rstrip(', ')})"

    def verbose(self) -> str:
        """'2 persons, 1 bus, ' in the order of the classes, or '(no detections), '."""
        counts = Counter(int(c) for c in self.boxes.cls.tolist())
        if not counts:
            return "(no detections), "
        return "".join(f"{n} {self.names.get(c, c)}{'s' * (n > 1)}, " for c, n in sorted(counts.items()))

    def plot(self, conf: bool = True, line_width: int | None = None, labels: bool = True, boxes: bool = True, pil: bool = False):
        """The image with its boxes drawn in: (H, W, 3) BGR uint8, or with `pil` an RGB Pillow image."""
        picture = picture_of(self.orig_img)
        if boxes:
            rows = self.boxes.data.tolist()
            picture = draw_boxes(picture, rows, self.names, labels=labels, conf=conf, line_width=line_width)
        return picture if pil else np.ascontiguousarray(np.asarray(picture)[..., ::-1])

    def save(self, filename: str | Path | None = None) -> str:
        """Write `plot()` to a file (default results_<name of the image>) and return its name."""
        target = Path(filename or f"results_{Path(self.path).stem}.jpg")
        with atomic(target) as temporary:
            self.plot(pil=True).save(temporary, quality=95)
        return str(target)
