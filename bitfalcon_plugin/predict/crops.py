"""Crops: the parts of an image at its detections, as files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ..config.errors import UserError
from ..config.notes import print_note
from ..plots.colours import GREY
from ..plots.drawing import picture_of
from .image_parts import ImageParts
from .pictures import folder_name, unused_path, write_picture

GAIN, PAD = 1.02, 10  # a crop is 2 % larger than its box, and 10 px


def write_crops(result: ImageParts, save_dir: Path, file_name: str | Path, masked: bool = False) -> None:
    """Write the part of the image at each detection as JPEG: <save_dir>/<class name>/<stem of file_name>.jpg.

    masked: write PNG, transparent outside of the object's mask. Raises UserError for objects without masks.
    """
    if masked:
        require_masks(result)
    if result.detections is None:
        if result.probs is not None:
            print_note("save_crop: probabilities of a whole image have no boxes; nothing is written")
        return
    name = Path(file_name).name
    stem = Path(name).stem if Path(name).suffix.lower() in Image.registered_extensions() else name
    crops = upright_crops(result, masked) if result.boxes is not None else turned_crops(result)
    for crop, cls in zip(crops, result.detections.cls.tolist()):
        if crop is not None:
            folder = save_dir / folder_name(result.class_name(cls), int(cls))
            write_picture(crop, unused_path(folder, stem, ".png" if masked else ".jpg"))


def require_masks(result: ImageParts) -> None:
    """Raise UserError where a result has objects without masks."""
    if len(result) and result.masks is None:
        raise UserError(
            "Crops cut out by masks need masks, which this result lacks; a segmentation model gives them. Without "
            "masks: save_crop=True, in a script save_crop(masked=False)."
        )


def upright_crops(result: ImageParts, masked: bool = False) -> Iterator[Image.Image | None]:
    """Yield the RGB picture of each box, cut at the border of the image; None for a box outside of it.

    masked: the pictures are RGBA, transparent and grey outside of the masks.
    """
    height, width = result.orig_shape
    for index, (x, y, w, h) in enumerate(result.boxes.xywh.tolist()):
        half_w, half_h = (w * GAIN + PAD) / 2, (h * GAIN + PAD) / 2
        left, top = max(int(x - half_w), 0), max(int(y - half_h), 0)
        part = result.cut(left, top, min(int(x + half_w), width), min(int(y + half_h), height))
        if not part.size:
            yield None
        elif masked:
            yield _cut_out(picture_of(part), result, index, (left, top))
        else:
            yield picture_of(part)


def _cut_out(picture: Image.Image, result: ImageParts, index: int, corner: tuple[int, int]) -> Image.Image:
    """Return the RGBA picture of one object. picture: the part of the image whose left top corner is `corner`."""
    alpha = Image.new("L", picture.size, 0)
    region = result.masks.region(index, result.orig_shape[::-1])
    if region is not None:
        (x, y), inside = region
        alpha.paste(255, (x - corner[0], y - corner[1]), Image.fromarray(inside))
    ground = Image.new("RGB", picture.size, GREY)
    ground.paste(picture, mask=alpha)
    ground.putalpha(alpha)
    return ground


def turned_crops(result: ImageParts) -> Iterator[Image.Image | None]:
    """Yield the RGB picture of each oriented box, turned upright; black where it reaches beyond the image.

    None for a box whose corners all lie beyond one border of the image.
    """
    whole = None if result.is_large else picture_of(result.orig_img)
    height, width = result.orig_shape
    for (x, y, w, h, angle), corners in zip(result.obb.xywhr.tolist(), result.obb.xyxyxyxy.tolist()):
        across, down = zip(*corners)
        if max(across) <= 0 or max(down) <= 0 or min(across) >= width or min(down) >= height:
            yield None
            continue
        size = max(round(w * GAIN + PAD), 1), max(round(h * GAIN + PAD), 1)
        cos, sin = math.cos(angle), math.sin(angle)
        half_w, half_h = size[0] / 2, size[1] / 2
        picture, (left, top) = (whole, (0, 0)) if whole else _around(result, x, y, math.hypot(half_w, half_h) + 2)
        x, y = x - left, y - top
        # from a place in the crop to the place in the picture
        place = (cos, -sin, x - half_w * cos + half_h * sin, sin, cos, y - half_w * sin - half_h * cos)
        yield picture.transform(size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)


def _around(result: ImageParts, x: float, y: float, radius: float) -> tuple[Image.Image, tuple[int, int]]:
    """Return the part of the image within `radius` pixels of a place, and its left top corner; black outside of it."""
    height, width = result.orig_shape
    left, top = min(max(int(x - radius), 0), width - 1), min(max(int(y - radius), 0), height - 1)
    right, bottom = min(max(int(x + radius), left) + 1, width), min(max(int(y + radius), top) + 1, height)
    return picture_of(result.cut(left, top, right, bottom)), (left, top)
