"""One image and the parts found in it: their access, their selection and their moves between kinds of memory.

Written from spec/interface.md 8.3 and spec/dropin.md 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ..config.errors import UserError
from ..data.images import UnreadableImage
from ..data.large import LargeImage
from .detections import OBB, Boxes
from .keypoints import Keypoints
from .masks import Masks
from .parts import Array, Part, qualified_name
from .probs import Probs

P = TypeVar("P", bound="ImageParts")
STAGES = ("preprocess", "inference", "postprocess")
PARTS: dict[str, type[Part]] = {"boxes": Boxes, "masks": Masks, "probs": Probs, "keypoints": Keypoints, "obb": OBB}


class ImageParts:
    """One image and what was found in it: `Results` without texts and pictures, where the arguments are explained.

    A part is given as its class or as a tensor or array; it is None where there is none.
    """

    _keys = ("boxes", "masks", "probs", "keypoints", "obb")  # the parts, in the order in which they are looked at
    boxes: Boxes  # None in results of oriented boxes or of probabilities
    masks: Masks | None
    probs: Probs | None
    keypoints: Keypoints | None
    obb: OBB | None

    def __init__(
        self,
        orig_img: np.ndarray | LargeImage | Callable[[], np.ndarray],
        path: str | Path,
        names: Mapping[int, str] | Sequence[str],
        boxes: Boxes | Array | None = None,
        masks: Masks | Array | None = None,
        probs: Probs | Array | None = None,
        keypoints: Keypoints | Array | None = None,
        obb: OBB | Array | None = None,
        speed: Mapping[str, float] | None = None,
        *,
        orig_shape: tuple[int, int] | None = None,
        save_dir: str | None = None,
        input_shape: tuple[int, int] | None = None,
    ):
        self._image = orig_img
        self.path, self.save_dir, self.input_shape = str(path), save_dir, input_shape
        self.names: dict[int, str] = dict(names if isinstance(names, Mapping) else enumerate(names))
        self.orig_shape: tuple[int, int] = tuple(orig_shape or self.orig_img.shape[:2])
        self.speed: dict[str, float | None] = {**dict.fromkeys(STAGES), **(speed or {})}
        for name, value in zip(self._keys, (boxes, masks, probs, keypoints, obb)):
            setattr(self, name, self._as_part(name, value))

    @property
    def orig_img(self) -> np.ndarray:
        """(H, W, 3) BGR uint8. A large image is read each time, and not kept. Raises UserError where it is gone."""
        if isinstance(self._image, LargeImage):
            return self.cut(0, 0, *self.orig_shape[::-1])
        if callable(self._image):
            self._image = self._image()
        return self._image

    @orig_img.setter
    def orig_img(self, image: np.ndarray) -> None:
        self._image = image

    @property
    def is_large(self) -> bool:
        """Whether the image is read by windows, and pictures of the result show a reduced copy of it."""
        return isinstance(self._image, LargeImage)

    def cut(self, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Return a part of the image, columns x1 to x2 and rows y1 to y2, as orig_img. Raises UserError."""
        if not isinstance(self._image, LargeImage):
            return self.orig_img[y1:y2, x1:x2]
        try:
            return self._image[y1:y2, x1:x2]
        except UnreadableImage as error:
            raise UserError(f"'{self.path}' cannot be read any more: {error}.") from error

    def reduced(self: P, side: int) -> P:
        """Return the result on a copy of a large image whose longer side has at most `side` pixels."""
        image = self._image.reduced(side)
        share = max(image.shape[:2]) / max(self.orig_shape)
        parts = {name: part if name == "masks" else part.scaled(share) for name, part in self._parts().items()}
        return type(self)(image, self.path, self.names, **parts, speed=self.speed, save_dir=self.save_dir)

    def __getstate__(self) -> dict[str, object]:
        image = self._image if self.is_large else self.orig_img  # functions cannot be pickled
        return {**self.__dict__, "_image": image}

    def _parts(self) -> dict[str, Part]:
        """Return the parts that are there, by name."""
        parts = {name: getattr(self, name) for name in self._keys}
        return {name: part for name, part in parts.items() if part is not None}

    def __len__(self) -> int:
        return next((len(part) for part in self._parts().values()), 0)

    def __getitem__(self: P, index) -> P:
        return self._each(lambda part: part[index])

    def __iter__(self: P) -> Iterator[P]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        lines = []
        for name in sorted((*self._keys, "names", "orig_img", "orig_shape", "path", "save_dir", "speed")):
            value = getattr(self, name)
            text = f"{qualified_name(value)} object of shape {value.shape}" if isinstance(value, Part) else repr(value)
            lines.append(f"{name}: {text}")
        return f"{qualified_name(self)} object with attributes:\n\n" + "\n".join(lines)

    @property
    def detections(self) -> Boxes | OBB | None:
        """The part that has a score and a class for each object: boxes, or else obb; None where there is neither."""
        return self.boxes if self.boxes is not None else self.obb

    def _each(self: P, function: Callable[[Part], Part]) -> P:
        """Return a result of the same image with a function applied to each part."""
        return self._with({name: function(part) for name, part in self._parts().items()})

    def _with(self: P, parts: Mapping[str, Part]) -> P:
        """Return a result of the same image with other parts; an image that was not made yet stays unmade."""
        shared = {"orig_shape": self.orig_shape, "save_dir": self.save_dir, "input_shape": self.input_shape}
        return type(self)(self._image, self.path, self.names, **parts, speed=self.speed, **shared)

    def new(self: P) -> P:
        """Return a result of the same image without parts."""
        return self._with({})

    def update(
        self,
        boxes: Boxes | Array | None = None,
        masks: Masks | Array | None = None,
        probs: Probs | Array | None = None,
        obb: OBB | Array | None = None,
        keypoints: Keypoints | Array | None = None,
    ) -> None:
        """Replace the parts that are given; boxes are clipped to the image, oriented ones are not."""
        if boxes is not None:
            data = self._as_part("boxes", boxes).data
            data = data.copy() if isinstance(data, np.ndarray) else data.clone()
            height, width = self.orig_shape
            data[:, 0:4:2] = data[:, 0:4:2].clip(0, width)
            data[:, 1:4:2] = data[:, 1:4:2].clip(0, height)
            self.boxes = Boxes(data, self.orig_shape)
        others = {"masks": masks, "probs": probs, "keypoints": keypoints, "obb": obb}
        for name, value in others.items():
            if value is not None:
                setattr(self, name, self._as_part(name, value))

    def _as_part(self, name: str, value: Part | Array | None) -> Part | None:
        made = value is None or isinstance(value, PARTS[name])
        return value if made else PARTS[name](value, self.orig_shape)

    def cpu(self: P) -> P:
        """Return the same with all parts in the CPU's memory."""
        return self._each(lambda part: part.cpu())

    def numpy(self: P) -> P:
        """Return the same with all parts as numpy arrays."""
        return self._each(lambda part: part.numpy())

    def cuda(self: P, device: int | str | torch.device | None = None) -> P:
        """Return the same with all parts as tensors on a GPU."""
        return self._each(lambda part: part.cuda(device))

    def to(self: P, *args, **kwargs) -> P:
        """Return the same with all parts as tensors on another device or of another type, as Tensor.to."""
        return self._each(lambda part: part.to(*args, **kwargs))

    def class_name(self, cls: float) -> str:
        """Return the name of a class, or its index where it has none."""
        return str(self.names.get(int(cls), int(cls)))
