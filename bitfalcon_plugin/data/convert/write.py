"""Write a dataset for training: images as links or as tiles, label files in shares of the image, and a data.yaml."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...ops.instances import Instances
from ...ops.polygons import Polygons
from ...ops.tiles import Window, tile_name
from ..dataset import Sample
from ..formats.obb_rows import read_obb
from ..images import UnreadableImage, read_picture
from ..large import large_image
from .source import Source, rings_of
from .tiling import LEAST_OF_OBJECT, Tiling, in_order, objects_of

QUALITY = 95  # of the JPEG files
UNLABELLED = -0.005  # x and y of a keypoint that is not labelled, where rows have no visibility: no reader refuses it
THREADS = min(os.cpu_count() or 1, 8)
MARK = "# Written by bitfalcon data"  # begins a data.yaml, and says whose the folders beside it are


@dataclass
class Written:
    """What a split got: pictures, those of them without objects, objects, objects cut to their picture, notes.

    lost: objects of the source that no picture shows enough of. names: of the pictures.
    """

    images: int = 0
    backgrounds: int = 0
    objects: int = 0
    cut: int = 0
    lost: int = 0
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def write_yolo(source: Source, folder: Path, tiling: Tiling | None, origin: str) -> dict[str, Written]:
    """Write images/, labels/ and data.yaml into an empty folder; return what each split got.

    tiling: None for images as they are, to which symbolic links lead. origin: where the dataset comes from, in words.
    """
    written = {}
    for split, part in source.parts.items():
        for name in sorted({source.folder_of(sample, split) for sample in part.samples}):
            (folder / "images" / name).mkdir(parents=True, exist_ok=True)
            if part.labelled:
                (folder / "labels" / name).mkdir(parents=True, exist_ok=True)
        written[split] = result = Written()
        for sample in tqdm(part.samples, desc=f"{split:>9}", leave=False, disable=None, dynamic_ncols=True):
            os.utime(folder)  # a folder that is being written is no leftover
            below = source.folder_of(sample, split)
            try:
                views = _write_images(sample, folder / "images" / below, tiling)
            except UnreadableImage as error:
                result.notes.append(f"{sample.image}: {error}; image set aside")
                continue
            result.images += len(views)
            if part.labelled:
                _write_labels(sample, views, source, folder / "labels" / below, tiling is not None, result)
            result.names += [f"{below}/{name}{'.jpg' if tiling else sample.image.suffix}" for name, _ in views]
    if source.divided:
        write_lists(folder, {split: result.names for split, result in written.items()})
    write_yaml(source, folder, origin)
    return written


def image_links(source: Source, split: str, folder: Path, result: Written) -> Iterator[tuple[Sample, str]]:
    """Link the images of a split into images/; yield each sample and the path of its link there.

    The images are counted in `result`. Of splits that were made anew the list file is written at the end.
    """
    for sample in tqdm(source.parts[split].samples, desc=f"{split:>9}", leave=False, disable=None, dynamic_ncols=True):
        os.utime(folder)  # a folder that is being written is no leftover
        name = f"{source.folder_of(sample, split)}/{sample.image.name}"
        target = folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(sample.image, target)
        result.images += 1
        result.names.append(name)
        yield sample, name
    if source.divided:
        write_lists(folder, {split: result.names})


def write_lists(folder: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Write train.txt, val.txt and test.txt, a line `./images/name` for each image. names: split -> image names."""
    for split, images in names.items():
        text = "".join(f"./images/{name}\n" for name in images)
        (folder / f"{split}.txt").write_text(text, encoding="utf-8", newline="\n")


def _write_images(sample: Sample, folder: Path, tiling: Tiling | None) -> list[tuple[str, Window]]:
    """Link the image, or write its tiles; return the name, without suffix, and the window of each.

    A large image is read by windows.
    """
    height, width = sample.size
    if tiling is None:
        _link(sample.image, folder / sample.image.name)
        return [(sample.image.stem, Window(0, 0, width, height))]
    views = [(tile_name(sample.image.stem, side, window), window) for side, window in tiling.windows(sample.size)]
    by_windows = large_image(sample.image)
    if by_windows is not None:
        with by_windows.opened() as read:
            for name, window in views:
                tile = Image.fromarray(np.ascontiguousarray(read(window)[..., ::-1]))
                tile.save(folder / f"{name}.jpg", quality=QUALITY)
        return views
    picture = read_picture(sample.image)

    def save(view: tuple[str, Window]) -> None:
        picture.crop(view[1]).save(folder / f"{view[0]}.jpg", quality=QUALITY)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(save, views))
    return views


def _link(source: Path, target: Path) -> None:
    """Make a symbolic link to an image, or a copy where the system makes no links."""
    try:
        target.symlink_to(os.path.abspath(source))
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def _write_labels(
    sample: Sample, views: Sequence[tuple[str, Window]], source: Source, folder: Path, tiled: bool, result: Written
) -> None:
    """Write the label file of each window of an image, an empty one for a background; count in `result`."""
    rings = rings_of(sample.labels, sample.size)
    convex = in_order(rings) if source.task == "obb" else rings
    lost = torch.ones(len(rings), dtype=torch.bool)
    for name, window in views:
        numbers, visible = objects_of(convex, window, LEAST_OF_OBJECT if tiled else 0.0)
        lost[numbers] = False
        labels = sample.labels.only(numbers)
        if source.keypoints is not None and source.keypoints.columns == 2 and labels.keypoints is not None:
            labels = replace(labels, keypoints=_pairs(labels.keypoints))
        rows, cut = label_rows(labels, rings[numbers], visible, window, source.task)
        (folder / f"{name}.txt").write_text("".join(rows), encoding="utf-8", newline="\n")
        result.objects += len(rows)
        result.cut += cut
        result.backgrounds += not rows
    result.lost += int(lost.sum())


def label_rows(
    labels: Instances, rings: Polygons, visible: Polygons, window: Window, task: str
) -> tuple[list[str], int]:
    """Return the rows of the label file of a window, and how many objects of the task obb were cut to it.

    labels, rings, visible: the objects, their outlines and the parts of these inside the window, in pixels of the
    image. Boxes and outlines are cut to the window. Corners of oriented boxes are not, so that they keep their angle:
    only an object that is too large for a label of this window is written as its visible part.
    """
    origin = rings.points.new_tensor(window[:2])
    extent = rings.points.new_tensor([window.x2 - window.x1, window.y2 - window.y1])
    rows, cut = [], 0
    outlined = labels.has_polygon.tolist()
    shares = [None] * len(labels) if labels.keypoints is None else labels.keypoints  # of the image, which is not cut
    for cls, ring, part, has_outline, points in zip(
        labels.classes.tolist(), rings.split(), visible.split(), outlined, shares
    ):
        ring, part = (ring - origin) / extent, (part - origin) / extent
        row = _row(cls, ring if task == "obb" else part)
        if task == "pose":
            low, high = part.amin(0), part.amax(0)
            row = _row(cls, torch.cat([(low + high) / 2, high - low, points.flatten()]))
        elif task == "obb" and isinstance(read_obb(row.split(), None), list):
            row, cut = _row(cls, part), cut + 1
        elif task == "detect" or not has_outline:
            low, high = part.amin(0), part.amax(0)
            row = _row(cls, torch.cat([(low + high) / 2, high - low]))
        rows.append(row)
    return rows, cut


def _pairs(keypoints: Tensor) -> Tensor:
    """Keypoints (n, K, 3) as the (n, K, 2) of labels without a visibility, in which UNLABELLED marks those without."""
    unlabelled = (keypoints[..., 2:] == 0) & (keypoints[..., :2] >= 0).all(-1, keepdim=True)
    return keypoints[..., :2].masked_fill(unlabelled, UNLABELLED)


def _row(cls: int, values: Tensor) -> str:
    """A row of a label file: the class and shares of the image, nine digits each: a millionth of a pixel."""
    return f"{cls} " + " ".join(f"{value + 0.0:.9g}" for value in values.flatten().tolist()) + "\n"


def write_yaml(
    source: Source,
    folder: Path,
    origin: str,
    entries: Mapping[str, str] | None = None,
    keys: Mapping[str, object] | None = None,
) -> None:
    """Write the data.yaml of a dataset. A split that training needs and that there is not is the other one.

    entries: split -> what the YAML says of it, by default its folder or its list. keys: further ones.
    """
    if entries is None:
        entries = {split: f"{split}.txt" if source.divided else f"images/{split}" for split in source.parts}
    first = next(iter(entries.values()))
    splits = {"path": ".", "train": entries.get("train", first), "val": entries.get("val", first), **entries}
    document = {**splits, **(keys or {}), "names": dict(source.names)}
    if source.keypoints is not None:
        document |= source.keypoints.as_keys()
    if source.settings:
        document["settings"] = dict(source.settings)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(f"{MARK}: {origin}\n{text}", encoding="utf-8", newline="\n")
