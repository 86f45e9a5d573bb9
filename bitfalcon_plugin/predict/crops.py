"""Crops: the parts of an image at its detections, as files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ..config.notes import print_note
from ..plots.drawing import picture_of
from .image_parts import ImageParts
from .pictures import folder_name, unused_path, write_picture

GAIN, PAD = 1.02, 10  # a crop is 2 % larger than its box, and 10 px


def write_crops(result: ImageParts, save_dir: Path, file_name: str | Path) -> None:
    """Write the part of the image at each detection as JPEG: <save_dir>/<class name>/<stem of file_name>.jpg."""
    if result.detections is None:
        if result.probs is not None:
            print_note("save_crop: probabilities of a whole image have no boxes; nothing is written")
        return
    name = Path(file_name).name
    stem = Path(name).stem if Path(name).suffix.lower() in Image.registered_extensions() else name
    crops = upright_crops(result) if result.boxes is not None else turned_crops(result)
    for crop, cls in zip(crops, result.detections.cls.tolist()):
        if crop is not None:
            folder = save_dir / folder_name(result.class_name(cls), int(cls))
            write_picture(crop, unused_path(folder, stem))


def upright_crops(result: ImageParts) -> Iterator[Image.Image | None]:
    """Yield the RGB picture of each box, cut at the border of the image; None for a box outside of it."""
    height, width = result.orig_shape
    for x, y, w, h in result.boxes.xywh.tolist():
        half_w, half_h = (w * GAIN + PAD) / 2, (h * GAIN + PAD) / 2
        left, top = max(int(x - half_w), 0), max(int(y - half_h), 0)
        part = result.orig_img[top : min(int(y + half_h), height), left : min(int(x + half_w), width)]
        yield picture_of(part) if part.size else None


def turned_crops(result: ImageParts) -> Iterator[Image.Image | None]:
    """Yield the RGB picture of each oriented box, turned upright; black where it reaches beyond the image."""
    picture = picture_of(result.orig_img)
    for x, y, w, h, angle in result.obb.xywhr.tolist():
        size = max(round(w * GAIN + PAD), 1), max(round(h * GAIN + PAD), 1)
        cos, sin = math.cos(angle), math.sin(angle)
        half_w, half_h = size[0] / 2, size[1] / 2
        # from a place in the crop to the place in the image
        place = (cos, -sin, x - half_w * cos + half_h * sin, sin, cos, y - half_w * sin - half_h * cos)
        yield picture.transform(size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
