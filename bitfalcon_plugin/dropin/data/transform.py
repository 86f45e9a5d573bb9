"""Transforms of one image take a dict and return it. Such dicts become arguments of our augmentation and come back.

The dict has img (h, w, 3) BGR uint8, cls (n, 1), instances, and what a dataset adds (im_file, ori_shape, ...).
Facts: spec/dropin-helpers.md section 8.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from ...ops.instances import Instances as Objects
from ...ops.polygons import Polygons
from ..utils.instance import Instances

Labels = dict[str, Any]


class BaseTransform:
    """A transform whose parts a subclass replaces: apply_image, apply_instances and apply_semantic change the dict."""

    def apply_image(self, labels: Labels) -> None:
        """Change labels["img"]."""

    def apply_instances(self, labels: Labels) -> None:
        """Change labels["instances"]."""

    def apply_semantic(self, labels: Labels) -> None:
        """Change the masks of a semantic dataset."""

    def __call__(self, labels: Labels) -> Labels:
        self.apply_image(labels)
        self.apply_instances(labels)
        self.apply_semantic(labels)
        return labels


class Compose:
    """Transforms one behind the other."""

    def __init__(self, transforms: Iterable[Callable] | Callable) -> None:
        self.transforms = list(transforms) if isinstance(transforms, (list, tuple)) else [transforms]

    def __call__(self, data: Any) -> Any:
        for transform in self.transforms:
            data = transform(data)
        return data

    def append(self, transform: Callable) -> None:
        """Put a transform behind the last one."""
        self.transforms.append(transform)

    def insert(self, index: int, transform: Callable) -> None:
        """Put a transform before the one at `index`."""
        self.transforms.insert(index, transform)

    def __getitem__(self, index: Any) -> Any:
        """The transform at an index; a Compose for a slice or a list of indices."""
        if isinstance(index, int):
            return self.transforms[index]
        chosen = self.transforms[index] if isinstance(index, slice) else [self.transforms[each] for each in index]
        return Compose(chosen)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, (list, tuple)):
            for each, transform in zip(index, value, strict=True):
                self.transforms[each] = transform
        else:
            self.transforms[index] = value

    def __len__(self) -> int:
        return len(self.transforms)

    def __iter__(self) -> Iterator[Callable]:
        return iter(self.transforms)

    def tolist(self) -> list[Callable]:
        """The list of transforms."""
        return self.transforms

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.transforms))})"


def draws(*shape: int) -> torch.Tensor:
    """Uniform numbers from [0, 1) in float64, from Python's generator, which scripts seed."""
    count = int(np.prod(shape))
    return torch.tensor([random.random() for _ in range(count)], dtype=torch.float64).reshape(shape)


def planes_of(image: np.ndarray) -> torch.Tensor:
    """An image (h, w, c) as a tensor (c, h, w) that shares its memory where it can."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def in_pixels(labels: Labels) -> Instances:
    """labels["instances"], turned in place to corners in pixels of labels["img"]."""
    height, width = labels["img"].shape[:2]
    instances = labels["instances"]
    instances.convert_bbox(format="xyxy")
    instances.denormalize(width, height)
    return instances


def objects_of(instances: Instances, scene: int = 0) -> Objects:
    """Objects, corners in pixels, as our Instances. `scores` is the row of each, by which its class is found again.

    `image` is `scene` for all of them.
    """
    count = len(instances)
    polygons = None
    if len(instances.segments):
        rings = [_without_repeats(ring) for ring in instances.segments]
        points = torch.from_numpy(np.concatenate(rings).astype(np.float64))
        polygons = Polygons(points, torch.tensor([len(ring) for ring in rings]))
    keypoints = instances.keypoints
    return Objects(
        torch.from_numpy(np.array(instances.bboxes, dtype=np.float64)).reshape(-1, 4),
        torch.zeros(count, dtype=torch.int64),
        scores=torch.arange(count, dtype=torch.float64),
        image=torch.full((count,), scene, dtype=torch.int64),
        polygons=polygons,
        keypoints=None if keypoints is None else torch.from_numpy(np.array(keypoints, dtype=np.float64)),
    )


def _without_repeats(ring: np.ndarray) -> np.ndarray:
    """A ring (k, 2) without the points that repeat its last one; see utils.instance.equal_lengths."""
    last = len(ring) - 1
    while last > 0 and (ring[last] == ring[last - 1]).all():
        last -= 1
    return ring[: last + 1]


def instances_of(objects: Objects) -> tuple[Instances, np.ndarray]:
    """Our Instances as objects in pixels, and the row that each had (n,). An object without outline gets its box's."""
    boxes = objects.boxes.numpy().astype(np.float32)
    segments = None
    if objects.polygons is not None:
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        rings = objects.polygons.split()
        segments = [ring.numpy() if len(ring) else box for ring, box in zip(rings, corners, strict=True)]
    keypoints = None if objects.keypoints is None else objects.keypoints.numpy().astype(np.float32)
    rows = objects.scores.numpy().astype(np.int64)
    return Instances(boxes, segments, keypoints, bbox_format="xyxy", normalized=False), rows
