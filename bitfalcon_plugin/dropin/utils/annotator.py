"""The Annotator that scripts draw with, and its colours. Written from spec/dropin.md section 9."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFont
from torch import Tensor

from ...plots.colours import PALETTE, ink
from ...plots.fonts import writable
from ...predict.pictures import show_picture, write_picture
from .canvas import ArrayCanvas, PillowCanvas
from .masks import scale_masks

DARK, WHITE = (104, 31, 17), (255, 255, 255)  # text on the palette's light and dark colours
# Joints of a person, counted from 1 (spec/pose-obb.md 1.7)
SKELETON = "16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 6-8 7-9 8-10 9-11 2-3 1-2 1-3 2-4 3-5 4-6 5-7"
LIMBS = (9, 9, 9, 9, 7, 7, 7, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16)  # colours in the palette, by limb
JOINTS = (16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9)


class Colors:
    """The palette: colors(i) is the colour of class i as (r, g, b), colors(i, True) as (b, g, r).

    palette: list of (r, g, b); n: their number; pose_palette: array (n, 3).
    """

    def __init__(self) -> None:
        self.palette = [self.hex2rgb(colour) for colour in PALETTE]
        self.n = len(self.palette)
        self.pose_palette = np.array(self.palette, dtype=np.uint8)

    def __call__(self, i: int | Tensor, bgr: bool = False) -> tuple[int, int, int]:
        colour = self.palette[int(i) % self.n]
        return colour[::-1] if bgr else colour  # type: ignore[return-value]

    @staticmethod
    def hex2rgb(h: str) -> tuple[int, int, int]:
        """Return "#rrggbb" as (r, g, b)."""
        return int(h[1:3], 16), int(h[3:5], 16), int(h[5:7], 16)


colors = Colors()
TEXT_ON = {
    order(colors.hex2rgb(name)): DARK if ink(name) == "black" else WHITE
    for name in PALETTE
    for order in (tuple, lambda rgb: rgb[::-1])
}


class Annotator:
    """Draws boxes, labels, masks and points on an image, in place where it can be written to.

    im: array (H, W, 3) uint8 BGR (grey is expanded, further channels are left out), or a Pillow picture. line_width:
    px, by default 0.3 % of the mean of height and width. font_size: px. font: file or name of a font. pil: draw on a
    Pillow picture. Colours are used as they are, so BGR on an array. Attributes: im, lw, sf, tf, pil, font, skeleton,
    limb_color, kpt_color; draw where pil. Raises AssertionError for an array that is not contiguous.
    """

    def __init__(
        self,
        im: Any,
        line_width: float | None = None,
        font_size: float | None = None,
        font: str = "Arial.ttf",
        pil: bool = False,
        example: str = "abc",
    ):
        self._is_rgb = isinstance(im, Image.Image)
        self.pil = bool(pil or self._is_rgb or not str(example).isascii())
        shape = (im.height, im.width, len(im.getbands())) if self._is_rgb else np.shape(im)
        self.lw = int(line_width or max(round(sum(shape) / 2 * 0.003), 2))
        self.sf, self.tf = self.lw / 3, max(self.lw - 1, 1)
        if self.pil:
            self.fromarray(im if self._is_rgb else _writable_array(im))
            size = max(round(sum(shape[:2]) / 2 * 0.035), 12)
        else:
            self.im = _writable_array(im)
            self._canvas = ArrayCanvas(self.im)
            size = max(round(self.sf * 27), 9)  # capitals as high as those of OpenCV's first font at this scale
        self._size, self._font = round(font_size or size), str(font)
        self.font: ImageFont.ImageFont = writable("", self._size, self._font)[1]
        self.skeleton = [[int(end) for end in limb.split("-")] for limb in SKELETON.split()]
        self.limb_color = colors.pose_palette[list(LIMBS)]
        self.kpt_color = colors.pose_palette[list(JOINTS)]

    def fromarray(self, im: Any) -> None:
        """Draw from now on on a Pillow picture: im itself, or one made of an array with its channels as they are."""
        self.im = im if isinstance(im, Image.Image) else Image.fromarray(im)
        if self.im.mode != "RGB":
            self.im = self.im.convert("RGB")
        self.pil, self._canvas = True, PillowCanvas(self.im)
        self.draw = self._canvas.draw

    def get_txt_color(self, color: Sequence[int] = (128, 128, 128), txt_color: Sequence[int] = WHITE) -> Sequence[int]:
        """Return dark or white for a colour of the palette, txt_color for any other."""
        return TEXT_ON.get(tuple(int(part) for part in color), txt_color)

    def box_label(
        self,
        box: Any,
        label: str = "",
        color: Sequence[int] = (128, 128, 128),
        txt_color: Sequence[int] = WHITE,
        rotated: bool = False,
    ) -> None:
        """Draw a box, x1, y1, x2, y2 in px, or four corners (4, 2), and a label on a patch of its colour.

        The patch stands above the upper left corner, or inside the box where there is no room, within the right edge.
        """
        points = np.asarray(_array(box), np.float64)
        if rotated or points.shape == (4, 2):
            points = points.reshape(-1, 2).astype(int)
            ring = np.concatenate([points, points[:1]])
            self._canvas.shape(ring, self.lw, lambda draw, xy: draw.line(xy, tuple(color[:3]), self.lw, joint="curve"))
            x1, y1 = points[0].tolist()
        else:
            x1, y1, x2, y2 = points.reshape(-1)[:4].astype(int).tolist()
            self._canvas.frame((x1, y1, x2, y2), color, self.lw)
        if label:
            self._label((x1, y1), str(label), color, self.get_txt_color(color, txt_color))

    def _label(self, corner: tuple[int, int], label: str, color: Sequence[int], txt_color: Sequence[int]) -> None:
        width, height = self._canvas.measure(label, self._size, self._font)
        x = max(min(corner[0], self._canvas.size[0] - width), 0)
        y = corner[1] - height - 3 if corner[1] >= height + 3 else corner[1]
        self._canvas.patch((x, y, x + width, y + height + 2), color)
        self._canvas.write((x, y + 2), label, txt_color, self._size, self._font)

    def text(
        self,
        xy: Sequence[float],
        text: str,
        txt_color: Sequence[int] = WHITE,
        anchor: str = "top",
        box_style: bool = False,
        box_color: Sequence[int] = (),
    ) -> None:
        """Write lines of text with their upper left corner at xy, or with anchor="bottom" their lower left one.

        box_color: of a patch behind the text; box_style: the patch has txt_color and the text is white.
        """
        lines = str(text).splitlines() or [""]
        x, y = int(xy[0]), int(xy[1])
        sizes = [self._canvas.measure(line, self._size, self._font) for line in lines]
        y -= sum(height for _, height in sizes) if anchor == "bottom" else 0
        ground = box_color or (txt_color if box_style else ())
        letters_color = WHITE if box_style and not box_color else txt_color
        for line, (width, height) in zip(lines, sizes, strict=True):
            if len(ground):
                self._canvas.patch((x, y, x + width, y + height), ground)
            self._canvas.write((x, y), line, letters_color, self._size, self._font)
            y += height

    def rectangle(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        """Draw a rectangle as ImageDraw does. Raises AttributeError where the image is an array."""
        if not self.pil:
            raise AttributeError("rectangle() draws on Pillow pictures: Annotator(im, pil=True); box_label() on arrays")
        self.draw.rectangle(xy, fill, outline, width)

    def masks(
        self, masks: Any, colors: Sequence, im_gpu: Any = None, alpha: float = 0.5, retina_masks: bool = False
    ) -> None:
        """Blend each mask (n, h, w) with its colour into the image; masks of the network input are moved to the image.

        alpha: share of the colour, which may also be given third, in the place of im_gpu.
        """
        alpha = im_gpu if isinstance(im_gpu, float) else alpha
        planes = torch.as_tensor(_array(masks)).float()
        width, height = self._canvas.size
        if not len(planes):
            return
        if planes.shape[1:] != (height, width):
            planes = scale_masks(planes[None], (height, width))[0]
        image = np.array(self.im)
        for plane, colour in zip((planes > 0.5).numpy(), colors):
            image[plane] = np.rint(image[plane] * (1 - alpha) + np.asarray(colour[:3], np.float32) * alpha)
        if self.pil:
            self.im.paste(Image.fromarray(image))
        else:
            self.im[:] = image

    def kpts(
        self,
        kpts: Any,
        shape: Sequence[int] = (640, 640),
        radius: int | None = None,
        kpt_line: bool = True,
        conf_thres: float = 0.25,
        kpt_color: Sequence[int] | None = None,
    ) -> None:
        """Draw the points (k, 2 or 3) of one object in px, and the limbs of a person of 17 points.

        A third column is the confidence; points below conf_thres, and points at (0, 0), are left out.
        """
        points = np.asarray(_array(kpts), np.float64)
        is_person = len(points) == 17
        shown = (points[:, :2] != 0).any(1) & np.isfinite(points[:, :2]).all(1)
        shown &= points[:, 2] >= conf_thres if points.shape[1] > 2 else True
        places = np.where(shown[:, None], points[:, :2], 0).astype(int)
        limbs = self.skeleton if kpt_line and is_person else []
        for index, (start, end) in enumerate(limbs):
            if shown[start - 1] and shown[end - 1]:
                colour = _or(kpt_color, self.limb_color[index].tolist())
                width = -(-self.lw // 2)
                ends = places[[start - 1, end - 1]]
                self._canvas.shape(ends, width, lambda draw, xy, c=colour, w=width: draw.line(xy, c, w))
        for index in np.flatnonzero(shown).tolist():
            colour = _or(kpt_color, self.kpt_color[index].tolist() if is_person else colors(index))
            self._dot(places[index], self.lw if radius is None else int(radius), colour)

    def _dot(self, centre: np.ndarray, radius: int, colour: Sequence[int]) -> None:
        """Fill a circle."""

        def draw(canvas: Any, xy: list[tuple[int, int]]) -> None:
            (x, y), *_ = xy
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(colour[:3]))

        self._canvas.shape(np.asarray(centre, int)[None], radius + 1, draw)

    def text_label(
        self,
        box: Any,
        label: str = "",
        color: Sequence[int] = (128, 128, 128),
        txt_color: Sequence[int] = WHITE,
        margin: int = 5,
    ) -> None:
        """Write a label on a patch in the middle of a box, x1, y1, x2, y2 in px; margin: of the patch, px."""
        (cx, cy), (width, height) = self._middle(box), self._canvas.measure(str(label), self._size, self._font)
        x, y = cx - width // 2, cy - height // 2
        self._canvas.patch((x - margin, y - margin, x + width + margin, y + height + margin), color)
        letters_color = self.get_txt_color(color, txt_color)
        self._canvas.write((x, y), str(label), letters_color, self._size, self._font)

    def circle_label(
        self,
        box: Any,
        label: str = "",
        color: Sequence[int] = (128, 128, 128),
        txt_color: Sequence[int] = WHITE,
        margin: int = 2,
    ) -> None:
        """Write the first three letters of a label on a disc in the middle of a box, x1, y1, x2, y2 in px."""
        label = str(label)[:3]
        (cx, cy), (width, height) = self._middle(box), self._canvas.measure(label, self._size, self._font)
        self._dot(np.array([cx, cy]), int((width**2 + height**2) ** 0.5 / 2) + margin, color)
        letters_color = self.get_txt_color(color, txt_color)
        self._canvas.write((cx - width // 2, cy - height // 2), label, letters_color, self._size, self._font)

    @staticmethod
    def _middle(box: Any) -> tuple[int, int]:
        x1, y1, x2, y2 = np.asarray(_array(box), np.float64).reshape(-1)[:4].tolist()
        return int((x1 + x2) / 2), int((y1 + y2) / 2)

    @staticmethod
    def get_bbox_dimension(bbox: Sequence[float]) -> tuple[float, float, float]:
        """Return width, height and area of a box x1, y1, x2, y2."""
        x1, y1, x2, y2 = bbox
        return x2 - x1, y2 - y1, (x2 - x1) * (y2 - y1)

    def result(self, pil: bool = False) -> Any:
        """Return the image: the array that was drawn on, or with pil a Pillow picture in RGB."""
        if not pil:
            return np.array(self.im) if self.pil else self.im
        return self.im if self._is_rgb else Image.fromarray(np.ascontiguousarray(np.asarray(self.im)[..., ::-1]))

    def show(self, title: str | None = None) -> None:
        """Show the image; without a display it is written to a file, and a note says where."""
        show_picture(self.result(pil=True), Path(f"{title or 'annotated'}.jpg"))

    def save(self, filename: str | Path = "image.jpg") -> None:
        """Write the image to a file."""
        write_picture(self.result(pil=True), Path(filename))


def _or(colour: Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
    """Return a colour as whole numbers, the default where there is none."""
    return tuple(int(part) for part in (default if colour is None else colour))


def _array(value: Any) -> Any:
    """Return a tensor as an array in the CPU's memory; anything else unchanged."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _writable_array(im: Any) -> np.ndarray:
    """Return im, or a copy where it cannot be written to or has other than three channels."""
    if not isinstance(im, np.ndarray):
        raise TypeError(f"im is a {type(im).__name__}, expected an array (H, W, 3) or a Pillow picture")
    if not im.flags.c_contiguous:
        raise AssertionError("im is not contiguous: give numpy.ascontiguousarray(im)")
    if im.ndim == 2 or im.shape[2] == 1:
        return np.repeat(im.reshape(*im.shape[:2], 1), 3, axis=2)
    if im.shape[2] > 3:
        return np.ascontiguousarray(im[..., :3])
    return im if im.flags.writeable else im.copy()
