"""Task1 files of DOTA: the oriented detections of a dataset, a file for each class, for its evaluation server.

Written from spec/pose-obb.md 2.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..config.files import write_text
from ..config.printable import say
from ..ops.instances import Instances
from ..ops.rotated import corners_of, hulls_of
from ..ops.rotated_nms import fast_suppress
from ..ops.tiles import read_tile_name

PER_TILE, MERGED = "predictions_txt", "predictions_merged_txt"  # folders
MERGE_IOU = 0.3  # ProbIoU above which the weaker of two detections of merged tiles goes


def write_task1(folder: Path, images: Sequence[str], detections: Instances, names: Mapping[int, str]) -> None:
    """Write PER_TILE and MERGED into `folder`: a file Task1_<class>.txt for each class, empty without detections.

    images: the name of each image, without suffix. detections: oriented, in pixels of their images; `image` is the
    index of the image. A line is `image score x1 y1 x2 y2 x3 y3 x4 y4`, the best detections of an image first.
    """
    detections = detections.only(detections.scores.argsort(descending=True, stable=True))
    _write(folder / PER_TILE, images, detections, names)
    stems, merged = merge_tile_files(images, detections)
    _write(folder / MERGED, stems, merged, names)
    say(f"Task1 files: {PER_TILE} ({len(images)} images), {MERGED} ({len(stems)} images, tiles put together)")


def merge_tile_files(images: Sequence[str], detections: Instances) -> tuple[list[str], Instances]:
    """Return the images of which `images` are tiles, and the detections in pixels of these.

    images: see ops.tiles.read_tile_name; an image that is no tile stays. detections: by falling score. Those of one
    image and class are suppressed by Fast NMS with MERGE_IOU, once more where an image has one tile alone.
    """
    tiles = [read_tile_name(name) for name in images]
    stems = list(dict.fromkeys(tile.stem for tile in tiles))
    numbers = {stem: number for number, stem in enumerate(stems)}
    owner = torch.tensor([numbers[tile.stem] for tile in tiles], dtype=torch.int64)[detections.image]
    offset = torch.tensor([(tile.x, tile.y, 0, 0, 0) for tile in tiles], dtype=torch.float64)[detections.image]
    rate = torch.tensor([(tile.rate,) * 4 + (1,) for tile in tiles], dtype=torch.float64)[detections.image]
    boxes = (detections.xywhr.double() + offset) / rate
    classes = detections.classes
    group = owner * (int(classes.max()) + 1 if len(classes) else 1) + classes
    merged = replace(detections, boxes=hulls_of(corners_of(boxes)), xywhr=boxes, image=owner)
    return stems, merged.only(~fast_suppress(boxes, group, MERGE_IOU))


def _write(folder: Path, images: Sequence[str], detections: Instances, names: Mapping[int, str]) -> None:
    """Write the files of detections by falling score; classes whose names differ in hyphens alone share a file."""
    lines: dict[str, list[str]] = {_file_name(name): [] for name in names.values()}
    detections = detections.only(detections.image.argsort(stable=True))
    corners = corners_of(detections.xywhr.double()).flatten(1).tolist()
    columns = (detections.image.tolist(), detections.classes.tolist(), detections.scores.tolist(), corners)
    for image, cls, score, points in zip(*columns):
        numbers = [round(score, 5), *(round(value, 3) for value in points)]
        lines[_file_name(names[cls])].append(f"{images[image]} " + " ".join(map(str, numbers)) + "\n")
    folder.mkdir(exist_ok=True)
    for name, rows in lines.items():
        write_text(folder / name, "".join(rows))


def _file_name(name: str) -> str:
    return f"Task1_{name.replace(' ', '-').replace('/', '-')}.txt"
