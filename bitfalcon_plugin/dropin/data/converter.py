"""Labels of other formats as text files. Facts: spec/dropin-helpers.md section 8."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config.files import atomic
from ..utils import LOGGER

# COCO numbers its 80 classes from 1 to 90, with gaps.
UNUSED_OF_91 = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


def coco91_to_coco80_class() -> list[int | None]:
    """For each of COCO's 91 category numbers, less one, the index of its class, or None where there is none."""
    used = iter(range(80))
    return [None if number in UNUSED_OF_91 else next(used) for number in range(1, 92)]


def coco80_to_coco91_class() -> list[int]:
    """COCO's category number of each of the 80 classes."""
    return [number for number in range(1, 92) if number not in UNUSED_OF_91]


def convert_coco(
    labels_dir: str = "../coco/annotations/",
    save_dir: str = "coco_converted/",
    use_segments: bool = False,
    use_keypoints: bool = False,
    cls91to80: bool = True,
    lvis: bool = False,
) -> None:
    """Write a label file for each image of the JSON files in labels_dir.

    The files of `instances_val.json` go to `<save_dir>/labels/val/`. use_segments: rows are outlines, several parts of
    an object joined by a thin bridge. use_keypoints: rows are boxes and keypoints. cls91to80: category numbers are
    COCO's 91; otherwise the class is the number less one. lvis: file names are those of `coco_url`. Crowds are left
    out, and so are boxes without area.
    """
    folder = Path(labels_dir)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"no JSON file in '{labels_dir}'")
    numbers = coco91_to_coco80_class() if cls91to80 and not lvis else None
    for file in files:
        document = json.loads(file.read_text(encoding="utf-8"))
        target = Path(save_dir) / "labels" / file.stem.replace("instances_", "")
        target.mkdir(parents=True, exist_ok=True)
        written = _convert(document, target, numbers, use_segments, use_keypoints, lvis)
        LOGGER.info(f"{file}: {written} label files in {target}")


def _convert(
    document: dict[str, Any],
    target: Path,
    numbers: Sequence[int | None] | None,
    use_segments: bool,
    use_keypoints: bool,
    lvis: bool,
) -> int:
    """Write the label files of one JSON document; return how many."""
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in document["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    written = 0
    for image in document["images"]:
        size = float(image["width"]), float(image["height"])
        name = "/".join(image["coco_url"].split("/")[-2:]) if lvis and "coco_url" in image else image["file_name"]
        rows: dict[tuple[float, ...], None] = {}  # in their order, each once
        for annotation in by_image.get(image["id"], ()):
            row = _row(annotation, size, numbers, use_segments, use_keypoints)
            if row is not None:
                rows[row] = None
        file = (target / name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows)
        with atomic(file) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")
        written += 1
    return written


def _row(
    annotation: dict[str, Any],
    size: tuple[float, float],
    numbers: Sequence[int | None] | None,
    use_segments: bool,
    use_keypoints: bool,
) -> tuple[float, ...] | None:
    """The numbers of a label row, None where the object has no place in a label file."""
    width, height = size
    x, y, w, h = (float(value) for value in annotation["bbox"])
    cls = annotation["category_id"] - 1 if numbers is None else numbers[annotation["category_id"] - 1]
    if annotation.get("iscrowd") or w <= 0 or h <= 0 or cls is None:
        return None
    box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
    if use_keypoints:
        if not annotation.get("keypoints"):
            return None
        points = np.array(annotation["keypoints"], dtype=np.float64).reshape(-1, 3) / [width, height, 1]
        return (cls, *box, *points.round(6).flatten().tolist())
    parts = annotation.get("segmentation")
    if use_segments and isinstance(parts, list) and parts:
        ring = merge_parts([np.array(part, dtype=np.float64).reshape(-1, 2) for part in parts])
        return (cls, *(ring / [width, height]).flatten().tolist())
    return (cls, *box)


def merge_parts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join rings (k, 2) to one ring: each further ring is entered at the points where it is nearest, and left there.

    The way back along the same bridge encloses no area.
    """
    ring = parts[0]
    for part in parts[1:]:
        distance = np.square(ring[:, None] - part[None]).sum(axis=2)
        at, start = np.unravel_index(distance.argmin(), distance.shape)
        tour = np.roll(part, -start, axis=0)
        ring = np.concatenate([ring[: at + 1], tour, tour[:1], ring[at:]])
    return ring


def merge_multi_segment(segments: Sequence[Any]) -> list[np.ndarray]:
    """Join the rings of one object, each a flat or (k, 2) list of points, to one; returns a list with this ring."""
    return [merge_parts([np.array(part, dtype=np.float64).reshape(-1, 2) for part in segments])]
