"""Objects of images as aligned rows: one structure for labels and for detections of every task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .encoded_masks import EncodedMasks
from .keypoints import cut_keypoints
from .letterbox import Fit
from .patches import Patches
from .polygons import Polygons, join
from .projective import move_boxes, move_points
from .rotated import cut, rectangles_of


@dataclass(frozen=True, eq=False)
class Instances:
    """n objects. Row i of every field belongs to object i; a field that a task does not have is None.

    boxes (n, 4): xyxy; of oriented boxes the axis-aligned hulls. classes (n,): int64. scores (n,): confidences in
    [0, 1], of detections only. image (n,): int64, the index of each object's image in the batch or in the dataset.
    polygons: outlines. masks (n, h, w): bool. patches: masks of one image, each in a patch around its box.
    encoded_masks: masks of the size of the original image. coefficients (n, m): of prototype masks. probabilities (n,
    nc): of all classes, where the object is the image as a whole. keypoints (n, k, 2 or 3): x, y and the visibility or
    the confidence. xywhr (n, 5): oriented boxes, see ops/rotated.py; labels have polygons in their place.

    Coordinates are shares of the image in a label as it is read from a file, and pixels everywhere else: of the
    original image, of a canvas or of the network input, as the function that returns the instances says.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor | None = None
    image: Tensor | None = None
    polygons: Polygons | None = None
    masks: Tensor | None = None
    patches: Patches | None = None
    encoded_masks: EncodedMasks | None = None
    coefficients: Tensor | None = None
    probabilities: Tensor | None = None
    keypoints: Tensor | None = None
    xywhr: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls) -> Instances:
        """No object, with boxes in float32."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    @classmethod
    def from_rows(cls, rows: Tensor) -> Instances:
        """Detections from rows (n, 6): x1, y1, x2, y2, score, class, as suppression and exported models give them."""
        return cls(rows[:, :4], rows[:, 5].long(), rows[:, 4])

    def rows(self) -> Tensor:
        """Detections as rows (n, 6): x1, y1, x2, y2, score, class; oriented ones (n, 7): xywhr, score, class."""
        boxes = self.boxes if self.xywhr is None else self.xywhr
        return torch.cat([boxes, self.scores[:, None], self.classes[:, None].to(boxes.dtype)], dim=1)

    @property
    def has_polygon(self) -> Tensor:
        """(n,) bool: which objects have a polygon."""
        if self.polygons is None:
            return torch.zeros_like(self.classes, dtype=torch.bool)
        return self.polygons.counts > 0

    @property
    def oriented(self) -> Tensor | None:
        """(n, 5) xywhr: the oriented boxes of detections, or the rectangles of labels; None where boxes are upright."""
        if self.xywhr is None and self.polygons is not None and self.polygons.rectangles:
            return rectangles_of(self.polygons)
        return self.xywhr

    @property
    def visible(self) -> Tensor:
        """(n,) bool: which objects have a pixel in their patch; all of them where there are no patches."""
        return torch.ones_like(self.classes, dtype=torch.bool) if self.patches is None else self.patches.visible

    def only(self, keep: Tensor) -> Instances:
        """The objects that `keep` selects: a mask (n,) bool, or indices (m,) int64 in any order."""
        return self._each(lambda value: value[keep])

    def apply(self, function: Callable[[Tensor], Tensor]) -> Instances:
        """The same objects with `function` applied to each tensor."""
        plain = dict.fromkeys((Polygons, Patches), lambda value: value.apply(function))
        plain[EncodedMasks] = lambda value: value
        return self._each(lambda value: plain.get(type(value), function)(value))

    def to(self, device: torch.device | str) -> Instances:
        """The same objects on another device."""
        return self.apply(lambda tensor: tensor.to(device))

    def scaled(self, width: float, height: float) -> Instances:
        """The same objects with x times `width` and y times `height`. Raises ValueError for masks and xywhr."""
        self._refuse_what_is_made_afterwards("scaled")
        return replace(
            self,
            boxes=self.boxes * self.boxes.new_tensor([width, height] * 2),
            polygons=None if self.polygons is None else self.polygons.scaled(width, height),
            keypoints=self._keypoints_from(lambda points: points * points.new_tensor([width, height])),
        )

    def to_canvas(self, fit: Fit) -> Instances:
        """Labels in pixels of the original image -> the same in pixels of the network input, not clipped."""
        self._refuse_what_is_made_afterwards("moved to a canvas")
        polygons = self.polygons
        if polygons is not None:
            polygons = replace(polygons, points=fit.points_to_canvas(polygons.points))
        points = self._keypoints_from(lambda xy: fit.points_to_canvas(xy.flatten(0, 1)).view_as(xy))
        return replace(self, boxes=fit.to_canvas(self.boxes), polygons=polygons, keypoints=points)

    def warp(self, maps: Tensor, size: tuple[int, int]) -> Instances:
        """Move every object through its own map, and cut it to an output of `size` (height, width) pixels.

        maps (n, 3, 3) float64. An object with a polygon gets the hull of what is left of its polygon as its box; other
        boxes become the hull of their four corners. An object that meets the horizon of a map gets a box of zeros.
        Keypoints outside the output are moved onto its border and lose their visibility. Raises ValueError for masks
        and xywhr, which are to be made after a warp.
        """
        self._refuse_what_is_made_afterwards("warped")
        boxes, polygons = move_boxes(self.boxes, maps, size), self.polygons
        if polygons is not None:
            polygons, visible = _warp_polygons(polygons, maps, size)
            boxes = torch.where(self.has_polygon[:, None], visible, boxes)
        return replace(self, boxes=boxes, polygons=polygons, keypoints=_warp_keypoints(self.keypoints, maps, size))

    @staticmethod
    def cat(parts: Sequence[Instances]) -> Instances:
        """Put instances behind one another. A part without polygons counts as objects that have none.

        Raises ValueError if one part has another field that is missing in a second part, which has objects, and for
        patches, which belong to one image each.
        """
        values: dict[str, object] = {}
        for field in fields(Instances):
            column = [getattr(part, field.name) for part in parts]
            if field.name != "polygons":
                column = [value for value, part in zip(column, parts) if value is not None or len(part)]
            if all(value is None for value in column):
                continue
            if field.name == "polygons":
                values[field.name] = join(column, [len(part) for part in parts])
            elif field.name == "encoded_masks" and None not in column:
                values[field.name] = EncodedMasks([code for part in column for code in part.codes])
            elif field.name == "patches":
                raise ValueError("patches of several images cannot be put together; encode them")
            elif any(value is None for value in column):
                raise ValueError(f"{field.name} is missing in some of the instances that are put together")
            else:
                values[field.name] = torch.cat(column)
        return Instances(**values)

    def _each(self, function: Callable) -> Instances:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Instances(**{name: None if value is None else function(value) for name, value in values.items()})

    def _keypoints_from(self, function: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return the keypoints with `function` applied to x and y; the third column is not changed."""
        if self.keypoints is None:
            return None
        return torch.cat([function(self.keypoints[..., :2]), self.keypoints[..., 2:]], dim=-1)

    def _refuse_what_is_made_afterwards(self, what: str) -> None:
        for name in ("masks", "patches", "encoded_masks", "xywhr"):
            if getattr(self, name) is not None:
                raise ValueError(f"instances with {name} cannot be {what}; make the {name} afterwards")


def _warp_polygons(polygons: Polygons, maps: Tensor, size: tuple[int, int]) -> tuple[Polygons, Tensor]:
    """Return the polygons on the output, and the hulls (n, 4) xyxy of what is left of them."""
    owner = polygons.owner
    points, visible = move_points(polygons.points, maps[owner])
    lost = torch.bincount(owner[~visible], minlength=len(polygons)) > 0  # a polygon that meets the horizon
    moved = replace(polygons, points=points[~lost[owner]], counts=polygons.counts.masked_fill(lost, 0))
    return cut(moved, points.new_tensor([0, 0, size[1], size[0]]).expand(len(polygons), 4))


def _warp_keypoints(keypoints: Tensor | None, maps: Tensor, size: tuple[int, int]) -> Tensor | None:
    if keypoints is None:
        return None
    count = keypoints.shape[1]
    flat = keypoints[..., :2].flatten(0, 1)  # (n * k, 2)
    points, visible = move_points(flat, maps.repeat_interleave(count, dim=0))
    bounds = points.new_tensor([0, 0, size[1], size[0]])
    shown = keypoints[..., 2:] * visible.view(-1, count, 1)
    return cut_keypoints(torch.cat([points.view(-1, count, 2), shown], dim=-1), bounds)
