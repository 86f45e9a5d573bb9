"""The results of one image: what was found in its own pixels, names, and the picture with all of it drawn in.

Written from spec/interface.md 8.3 and spec/dropin.md 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from PIL import Image

from ..config.files import write_text
from ..config.tabular import Tabular, flatten
from . import records
from .crops import write_crops
from .image_parts import ImageParts
from .pictures import show_picture, write_picture
from .plotting import OLD_NAMES, PlotOptions, TextStyle, draw_result

REDUCED_SIDE = 4096  # px, longer side of the picture of a large image


class Results(ImageParts, Tabular):
    """One image and what was found in it. The length is that of its first part; an index, a slice or a mask selects
    the same rows of every part.

    orig_img (ndarray[H, W, 3]): BGR uint8; or a function without arguments that makes the image when it is first read;
    or a LargeImage, which is read by windows.
    path: of the image. names: class index to name, or a list of names. The parts, each None where there is none, are
    given as their class or as a tensor or array: boxes (Boxes), masks (Masks), probs (Probs), keypoints (Keypoints)
    and obb (OBB). speed: milliseconds of STAGES, None where unknown. orig_shape: (h, w). save_dir: the folder of the
    run, if the run wrote one. input_shape: (h, w) of the network input, where known.
    """

    json_options = {"indent": 2}

    def verbose(self) -> str:
        """Return '2 persons, 1 bus, ' in the order of the classes, or '(no detections), '.

        Of probabilities 'six 0.91, zero 0.04, ', the five most probable classes.
        """
        return records.counts_text(self)

    @overload
    def plot(self, *positional, pil: Literal[False] = False, **options) -> np.ndarray: ...
    @overload
    def plot(self, *, pil: Literal[True], **options) -> Image.Image: ...
    def plot(
        self,
        conf: bool = True,
        line_width: float | None = None,
        font_size: float | None = None,
        font: str | None = None,
        pil: bool = False,
        img: np.ndarray | Image.Image | None = None,
        **options: object,
    ) -> np.ndarray | Image.Image:
        """Draw every part on the image: (H, W, 3) BGR uint8, or with `pil` an RGB Pillow image.

        conf: draw scores. line_width, font_size: px, by default by the size of the picture. font: name or file of a
        font. img: a picture of the same size to draw on instead, BGR array or Pillow. options: fields of
        plotting.PlotOptions, and the old names show_conf and line_thickness. Raises TypeError for an unknown option,
        UserError for a wrong color_mode.

        A large image, which was read by windows, is drawn on a copy whose longer side has at most REDUCED_SIDE pixels;
        img=result.orig_img draws on all of it.
        """
        style = {"conf": conf, "line_width": line_width, "font_size": font_size, "font": font}
        style |= {new: options.pop(old) for old, new in OLD_NAMES.items() if old in options}
        plot = PlotOptions.of(**options)
        result = self.reduced(REDUCED_SIDE) if self.is_large and img is None else self
        picture = draw_result(result, result.orig_img if img is None else img, TextStyle(**style), plot)
        if plot.save:
            write_picture(picture, self._target(plot.filename))
        if plot.show:
            show_picture(picture, Path.cwd() / self._target(None))
        return picture if pil else np.ascontiguousarray(np.asarray(picture)[..., ::-1])

    def show(self, *args, **kwargs) -> None:
        """Show `plot(...)` in a window or a notebook; without a display write it to a file, and print its path."""
        self.plot(*args, **{**kwargs, "show": True})

    def save(self, filename: str | Path | None = None, *args, **kwargs) -> str:
        """Write `plot(...)` to a file, by default results_<stem of the image>.jpg, and return its name."""
        target = self._target(filename)
        self.plot(*args, **{**kwargs, "save": True, "filename": target})
        return str(target)

    def _target(self, filename: str | Path | None) -> Path:
        target = Path(filename or f"results_{Path(self.path).stem}.jpg")
        return target if target.suffix else target.with_suffix(".jpg")

    def save_txt(self, txt_file: str | Path, save_conf: bool = False) -> str:
        """Append the lines of `records.label_lines` to a label file, and return the file's name.

        Nothing is written without detections.
        """
        path = Path(txt_file)
        if lines := records.label_lines(self, save_conf):
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            separator = "\n" if before and not before.endswith("\n") else ""
            write_text(path, before + separator + "".join(lines))
        return str(txt_file)

    def save_crop(self, save_dir: str | Path, file_name: str | Path = "im.jpg", masked: bool = False) -> None:
        """Write the part of the image at each box, 2 % and 10 px larger, as JPEG: <save_dir>/<class name>/<stem>.jpg.

        An oriented box is turned upright, and what lies outside of the image is black. The stem is that of file_name.
        Where the file exists its name is <stem>2.jpg, <stem>3.jpg and so on. Without boxes nothing is written, and a
        note says so where the result has probabilities.

        masked: write PNG of what lies in the mask; the rest is transparent, and grey for programs without transparency.
        Raises UserError for objects without masks.
        """
        write_crops(self, Path(save_dir), file_name, masked)

    def columns(self, flat: bool = False) -> Sequence[str]:
        return records.columns(self, flat)

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """Return a record {name, class, confidence, box} for each detection, with the parts that are there.

        box: {x1, y1, x2, y2}, or {x1, y1, ..., x4, y4} of oriented boxes; then [track_id], [segments: {x, y}, lists of
        the points of a mask's outline] and [keypoints: {x, y[, visible]}, lists]. Probabilities have a record {name,
        class, confidence} for each of the five most probable classes. normalize: x and y over the image's width and
        height. decimals: of scores and coordinates.
        """
        return records.summary(self, normalize, decimals)

    tojson = Tabular.to_json

    def to_xml(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as XML text: <data><row><name>...</name>...</row>...</data>, with a tag for each corner."""
        from xml.etree import ElementTree  # a tenth of what predict imports, for one method

        data = ElementTree.Element("data")
        for record in self.summary(normalize, decimals):
            element = ElementTree.SubElement(data, "row")
            for key, value in flatten(record).items():
                ElementTree.SubElement(element, key).text = str(value)
        return ElementTree.tostring(data, encoding="unicode")
