"""The texts of a result: its counts, its records for tables and JSON, and its lines of label files.

They follow the parts that the result has. Written from spec/interface.md 8.3, spec/pose-obb.md 1.7 and 2.11, and
spec/segment-classify.md 1.9 and 2.8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from .image_parts import ImageParts

CORNERS = ("x1", "y1", "x2", "y2")
FOUR_CORNERS = (*CORNERS, "x3", "y3", "x4", "y4")
FEWEST_POINTS = 3  # of an outline in a label file; no reader takes fewer


def counts_text(result: ImageParts) -> str:
    """Return '2 persons, 1 bus, ' in the order of the classes, 'six 0.91, ' for probabilities, '(no detections), '."""
    if result.probs is not None:
        return "".join(f"{name} {conf:.2f}, " for name, _, conf in _best_classes(result))
    rows = result.detections
    counts = Counter(int(cls) for cls in rows.cls.tolist()) if rows is not None else Counter()
    if not counts:
        return "(no detections), "
    return "".join(f"{n} {result.class_name(cls)}{'s' * (n > 1)}, " for cls, n in sorted(counts.items()))


def _best_classes(result: ImageParts) -> list[tuple[str, int, float]]:
    """Return name, index and probability of the five most probable classes."""
    best = zip(result.probs.top5, result.probs.top5conf.tolist())
    return [(result.class_name(cls), cls, conf) for cls, conf in best]


def columns(result: ImageParts, flat: bool) -> list[str]:
    """Return the keys of a record; with `flat` a key for each item of a nested record."""
    named = ["name", "class", "confidence"]
    if result.detections is None:
        return named
    box = FOUR_CORNERS if result.boxes is None else CORNERS
    nested = {"box": list(box)}
    tracked = ["track_id"] if result.detections.is_track else []
    if result.masks is not None:
        nested["segments"] = ["segments_x", "segments_y"]
    if result.keypoints is not None:
        visible = ["keypoints_visible"] if result.keypoints.has_visible else []
        nested["keypoints"] = ["keypoints_x", "keypoints_y", *visible]
    if not flat:
        first, *others = nested
        return [*named, first, *tracked, *others]
    return [*named, *nested.pop("box"), *tracked, *(key for keys in nested.values() for key in keys)]


def summary(result: ImageParts, normalize: bool, decimals: int) -> list[dict[str, Any]]:
    """Return a record for each detection, or for each of the five most probable classes."""
    if result.probs is not None:
        return [
            {"name": name, "class": cls, "confidence": round(conf, decimals)}
            for name, cls, conf in _best_classes(result)
        ]
    rows = result.detections
    if rows is None:
        return []
    keys, corners = _corners(result, normalize)
    records: list[dict[str, Any]] = []
    for sides, conf, cls in zip(corners, rows.conf.tolist(), rows.cls.tolist()):
        box = {key: round(side, decimals) for key, side in zip(keys, sides)}
        named = {"name": result.class_name(cls), "class": int(cls), "confidence": round(conf, decimals)}
        records.append({**named, "box": box})
    if rows.is_track:
        for record, track_id in zip(records, rows.id.tolist()):
            record["track_id"] = int(track_id)
    for key, values in _point_records(result, normalize, decimals).items():
        for record, value in zip(records, values):
            record[key] = value
    return records


def _corners(result: ImageParts, normalize: bool) -> tuple[Sequence[str], list[list[float]]]:
    """Return the names of the sides of a box, and the sides of each detection."""
    if result.boxes is not None:
        boxes = result.boxes
        return CORNERS, (boxes.xyxyn if normalize else boxes.xyxy).tolist()
    obb = result.obb
    return FOUR_CORNERS, (obb.xyxyxyxyn if normalize else obb.xyxyxyxy).reshape(-1, 8).tolist()


def _point_records(result: ImageParts, normalize: bool, decimals: int) -> dict[str, list[dict[str, list[float]]]]:
    """Return the outlines and the keypoints of each detection, as lists of x, of y and of visibilities."""

    def as_lists(points: Any, names: Sequence[str]) -> dict[str, list[float]]:
        columns = zip(*points.tolist()) if len(points) else [[]] * len(names)
        return {name: [round(value, decimals) for value in column] for name, column in zip(names, columns)}

    values = {}
    if (masks := result.masks) is not None:
        values["segments"] = [as_lists(ring, "xy") for ring in (masks.xyn if normalize else masks.xy)]
    if (keypoints := result.keypoints) is not None:
        names = ("x", "y", "visible")[: keypoints.data.shape[2]]
        points = torch.as_tensor(keypoints.data).clone()
        if normalize:
            points[..., :2] = torch.as_tensor(keypoints.xyn)
        values["keypoints"] = [as_lists(each, names) for each in points]
    return values


def label_lines(result: ImageParts, save_conf: bool) -> list[str]:
    """Return the lines of a label file for a result.

    Probabilities: '0.91 name' for the five best classes. Else a line for each detection (see `label_line`): the outline
    of its mask, or its four corners, or centre and size; then its keypoints. A mask whose outline has fewer than
    FEWEST_POINTS points has no line.
    """
    if result.probs is not None:
        return [f"{conf:.2f} {name}\n" for name, _, conf in _best_classes(result)]
    rows = result.detections
    if rows is None:
        return []
    if result.masks is not None:
        shapes = [ring.reshape(-1).tolist() for ring in result.masks.xyn]
    else:
        shapes = result.boxes.xywhn.tolist() if result.boxes is not None else _corners(result, True)[1]
    points = _flat_keypoints(result) or [[]] * len(rows)
    track_ids = rows.id.tolist() if rows.is_track else [None] * len(rows)
    lines = []
    for cls, shape, extra, conf, track_id in zip(rows.cls.tolist(), shapes, points, rows.conf.tolist(), track_ids):
        if result.masks is None or len(shape) >= 2 * FEWEST_POINTS:
            lines.append(label_line(cls, [*shape, *extra], conf if save_conf else None, track_id))
    return lines


def _flat_keypoints(result: ImageParts) -> list[list[float]]:
    """Return for each detection x, y[, visibility] of all its keypoints, over the image's width and height."""
    keypoints = result.keypoints
    if keypoints is None:
        return []
    parts = [torch.as_tensor(keypoints.xyn)]
    if keypoints.has_visible:
        parts.append(torch.as_tensor(keypoints.conf)[..., None])
    return torch.cat(parts, -1).flatten(1).tolist()


def label_line(
    cls: float, shape: Sequence[float], confidence: float | None = None, track_id: float | None = None
) -> str:
    """The line of a label file for one detection: class, shape[, confidence][, track].

    shape: centre and size, corners or points, over the image's width and height.
    """
    numbers = [*shape] if confidence is None else [*shape, confidence]
    track = [] if track_id is None else [str(int(track_id))]
    return " ".join([str(int(cls)), *(f"{number:g}" for number in numbers), *track]) + "\n"
