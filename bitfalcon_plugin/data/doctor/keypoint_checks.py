"""What can be wrong or odd in the keypoints of a dataset of poses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from ...ops.boxes import box_iou
from ...ops.instances import Instances
from ...ops.keypoint_layout import KeypointLayout
from ..formats.keypoint_notes import flip_warnings, sigmas_line
from .checks import EQUAL, FEW_BOXES, MAX_EMPTY, TWICE, Finding, View
from .survey import Picture

FAR = 0.5  # of the box's side, beyond its border: a keypoint that lies further is odd
# kind -> severity and description of what is odd about a keypoint, or about an object
ODD_POINTS = {
    "keypoint outside": ("warning", "keypoints far outside the box of their object"),
    "keypoint at 0 0": (
        "warning",
        "keypoints at 0 0, which without a visibility is a place; kpt_shape: [K, 3] can leave points out",
    ),
}
ODD_OBJECTS = {
    "one place": ("warning", "objects whose labelled keypoints all lie at one place"),
    "no keypoint": (
        "note",
        "objects without a labelled keypoint: they train boxes alone, and the AP of keypoints skips",
    ),
    TWICE[1]: (TWICE[0], TWICE[2]),
}


def check_keypoints(view: View) -> Iterator[Finding]:
    """Yield remarks about flip_idx, odd keypoints and objects, keypoints that train lacks, and the sigmas in use."""
    layout = view.survey.data.keypoints
    if layout is None:
        return
    if odd := flip_warnings(layout):
        yield Finding("warning", "flips", "remarks about mirrors", tuple(odd))
    items: dict[str, list[str]] = {kind: [] for kind in (*ODD_POINTS, *ODD_OBJECTS)}
    counts, objects = np.zeros(layout.count, int), 0  # labelled in train, and objects of all splits
    for split, picture in view.pictures():
        labels = picture.labels.labels if picture.labels else Instances.empty()
        if labels.keypoints is None:
            continue
        objects += len(labels)
        seen = labels.keypoints[..., 2] != 0  # (n, K)
        if split == "train":
            counts += seen.sum(0).numpy()
        for kind, which in _odd_points(labels, seen, layout).items():
            items[kind] += _points(view, split, picture, which, layout)
        for kind, which in _odd_objects(labels, seen).items():
            items[kind] += [_object(view, split, picture, row) for row in which.nonzero().flatten().tolist()]
    for kind, (severity, description) in {**ODD_POINTS, **ODD_OBJECTS}.items():
        if items[kind]:
            frequent = kind == "no keypoint" and len(items[kind]) > MAX_EMPTY * objects
            yield Finding("warning" if frequent else severity, kind, description, tuple(items[kind]))
    if counts.any():
        yield from _rare(layout, counts)
    yield Finding("note", "sigma", sigmas_line(layout) + ".")


def _odd_points(labels: Instances, seen: Tensor, layout: KeypointLayout) -> Mapping[str, Tensor]:
    """Kind -> (n, K) bool: which keypoints are odd."""
    low, high = labels.boxes[:, None, :2], labels.boxes[:, None, 2:]
    points, reach = labels.keypoints[..., :2], FAR * (high - low)
    far = ((points < low - reach) | (points > high + reach)).any(-1) & seen
    zero = (points == 0).all(-1) & (layout.columns == 2)
    return {"keypoint outside": far & ~zero, "keypoint at 0 0": zero}


def _odd_objects(labels: Instances, seen: Tensor) -> Mapping[str, Tensor]:
    """Kind -> (n,) bool: which objects are odd."""
    points, count = labels.keypoints[..., :2], seen.sum(1)
    low = points.masked_fill(~seen[..., None], 2.0).amin(1)  # (n, 2); a share of the image is less
    high = points.masked_fill(~seen[..., None], -1.0).amax(1)
    equal = (box_iou(labels.boxes, labels.boxes) > EQUAL) & (labels.classes[:, None] == labels.classes)
    return {"one place": (low == high).all(1) & (count > 1), "no keypoint": count == 0, TWICE[1]: equal.tril(-1).any(1)}


def _points(view: View, split: str, picture: Picture, which: Tensor, layout: KeypointLayout) -> Iterator[str]:
    for row, index in which.nonzero().tolist():
        cls = int(picture.labels.labels.classes[row])
        place = f"{view.near(picture.path)}: {view.names.get(cls, '?')}"
        yield f"{split}: {place}: keypoint {layout.name(index, cls)} of object {row + 1}"


def _object(view: View, split: str, picture: Picture, row: int) -> str:
    cls = int(picture.labels.labels.classes[row])
    return f"{split}: {view.near(picture.path)}: {view.names.get(cls, '?')}, object {row + 1}"


def _rare(layout: KeypointLayout, counts: np.ndarray) -> Iterator[Finding]:
    if never := tuple(layout.name(index) for index in np.nonzero(counts == 0)[0].tolist()):
        yield Finding("warning", "keypoint not in train", "keypoints are never labelled in train", never)
    rare = np.nonzero((counts > 0) & (counts < FEW_BOXES))[0].tolist()
    if rare and counts.max() >= FEW_BOXES:  # otherwise all are, as in a small dataset
        few = tuple(f"{layout.name(index)}: {counts[index]}" for index in rare)
        yield Finding(
            "note", "rare keypoint", f"keypoints that are labelled fewer than {FEW_BOXES} times in train", few
        )
