"""The picture of a result: what Results.plot draws, and its keywords.

Written from spec/interface.md 8.3, spec/dropin.md 4 and 9, spec/segment-classify.md 1.9 and 2.8, and spec/pose-obb.md
1.7 and 2.11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from ..config.errors import UserError
from ..plots.colours import colour_of, row_colours
from ..plots.drawing import BoxStyle, draw_boxes, picture_of
from ..plots.overlays import SEEN, draw_keypoints, draw_regions, draw_text_lines
from .image_parts import ImageParts

OLD_NAMES = {"show_conf": "conf", "line_thickness": "line_width"}
NO_EFFECT = {"im_gpu", "img_gpu"}  # the image on a GPU, where others blend masks


@dataclass(frozen=True)
class PlotOptions:
    """Keywords of Results.plot beside those that it names itself.

    labels, boxes, masks, probs: draw the class names, the boxes with their labels, the masks, the text of the
    probabilities. kpt_radius: px of the dots of keypoints, by default by the size of the picture. kpt_line: draw limbs.
    kpt_conf: keypoints with a lower confidence are not drawn. show: also show the picture. save: also write the
    picture, to filename. color_mode: a colour for each 'class', or for each 'instance', that is for each track where
    there are tracks; None: by track where there are tracks, else by class. txt_color, kpt_color: BGR, 0 to 255, of the
    text, by default the one that can be read best, and of all keypoints, by default a colour for each.
    """

    labels: bool = True
    boxes: bool = True
    masks: bool = True
    probs: bool = True
    show: bool = False
    save: bool = False
    filename: str | Path | None = None
    color_mode: str | None = None
    kpt_radius: float | None = None
    kpt_line: bool = True
    kpt_conf: float = SEEN
    txt_color: Sequence[int] | None = None
    kpt_color: Sequence[int] | None = None

    @classmethod
    def of(cls, **values: object) -> PlotOptions:
        """Check names and values. Raises TypeError for an unknown name, UserError for a wrong value."""
        if unknown := set(values) - {field.name for field in fields(cls)} - NO_EFFECT:
            raise TypeError(f"plot() got unknown arguments: {', '.join(sorted(unknown))}")
        options = cls(**{name: value for name, value in values.items() if name not in NO_EFFECT})
        if options.color_mode not in ("class", "instance", None):
            raise UserError(f"color_mode={options.color_mode!r}: expected 'class' or 'instance'.")
        if options.kpt_radius is not None and not options.kpt_radius >= 0:
            raise UserError(f"kpt_radius={options.kpt_radius!r}: expected pixels, 0 or more, or None.")
        return options


@dataclass(frozen=True)
class TextStyle:
    """How boxes and text are drawn: conf: write scores. line_width, font_size: px, None by the size of the picture.

    font: name or file of a font, None for the usual one.
    """

    conf: bool = True
    line_width: float | None = None
    font_size: float | None = None
    font: str | None = None


def draw_result(
    result: ImageParts, source: np.ndarray | Image.Image, style: TextStyle, plot: PlotOptions
) -> Image.Image:
    """Return an RGB picture of the source with every part of a result: masks, boxes, keypoints, then probabilities.

    source: the image, BGR array or Pillow.
    """
    picture = source.convert("RGB") if isinstance(source, Image.Image) else picture_of(source)
    rows, corners = _rows(result)
    instance = None if plot.color_mode is None else plot.color_mode == "instance"
    if result.masks and plot.masks:
        colours = row_colours(rows, instance) if rows else [colour_of(i) for i in range(len(result.masks))]
        regions = [result.masks.region(index, picture.size) for index in range(len(result.masks))]
        picture = draw_regions(picture, regions, colours)
    text_colour = None if plot.txt_color is None else tuple(plot.txt_color[2::-1])
    font = {"font_size": style.font_size, "font": style.font}
    if rows and plot.boxes:
        looks = {"labels": plot.labels, "conf": bool(style.conf), "instance": instance, "text_colour": text_colour}
        boxes = BoxStyle(line_width=style.line_width, **looks, **font)
        picture = draw_boxes(picture, rows, result.names, boxes, corners)
    if result.keypoints:  # over the boxes, whose labels would hide some
        colour = None if plot.kpt_color is None else tuple(plot.kpt_color[2::-1])
        dots = {"radius": plot.kpt_radius, "lines": plot.kpt_line, "colour": colour, "line_width": style.line_width}
        dots["least"] = plot.kpt_conf
        picture = draw_keypoints(picture, result.keypoints.data.tolist(), result.keypoints.limbs, **dots)
    if result.probs is not None and plot.probs:
        best = zip(result.probs.top5, result.probs.top5conf.tolist())
        lines = [f"{result.class_name(cls)} {conf:.2f}" for cls, conf in best]
        picture = draw_text_lines(picture, lines, colour=text_colour, **font)
    return picture


def _rows(result: ImageParts) -> tuple[list[list[float]], list[list[list[float]]] | None]:
    """Return the rows that draw_boxes takes, and the corners of oriented boxes or None."""
    if result.detections is None:
        return [], None
    if result.boxes is not None:
        return result.boxes.data.tolist(), None
    boxes = result.obb
    rows = [[*hull, *row[5:]] for hull, row in zip(boxes.xyxy.tolist(), boxes.data.tolist())]
    return rows, boxes.xyxyxyxy.tolist()
