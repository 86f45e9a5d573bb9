"""What a user gets back of an image: boxes in its own pixels, names, and a picture with them drawn in.

Written from spec/interface.md 8.3.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from PIL import Image, ImageShow
from torch import Tensor

from ..config.errors import UserError
from ..config.files import atomic, write_text
from ..config.notes import print_note
from ..plots.drawing import draw_boxes, picture_of
from .detections import Boxes

STAGES = ("preprocess", "inference", "postprocess")
CROP_GAIN, CROP_PAD = 1.02, 10  # a crop is 2 % larger than its box, and 10 px
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # in a folder's name, on one system or another


class Results:
    """One image and what was found in it, as a list of boxes: its length is their number; without boxes it is false.

    orig_img (ndarray[H, W, 3]): BGR uint8; a function without arguments may be given that makes it when it is first read.
    orig_shape: (h, w). path: of the image. names: class index to name, or a list of names. speed: milliseconds of STAGES, None
    where unknown. boxes: Boxes; Boxes, a tensor or an array may be given. save_dir: the folder of the run, if it wrote one.
    masks, probs, keypoints and obb belong to other tasks and are None. An index, a slice or a mask gives Results of those
    boxes.
    """

    masks = probs = keypoints = obb = None

    def __init__(
        self,
        orig_img: np.ndarray | Callable[[], np.ndarray],
        path: str | Path,
        names: Mapping[int, str] | Sequence[str],
        boxes: Boxes | Tensor | np.ndarray | None = None,
        speed: Mapping[str, float] | None = None,
        *,
        orig_shape: tuple[int, int] | None = None,
        save_dir: str | None = None,
    ):
        self._image = orig_img
        self.path, self.save_dir = str(path), save_dir
        self.names: dict[int, str] = dict(names if isinstance(names, Mapping) else enumerate(names))
        self.orig_shape: tuple[int, int] = tuple(orig_shape or self.orig_img.shape[:2])
        self.speed: dict[str, float | None] = {**dict.fromkeys(STAGES), **(speed or {})}
        self.boxes = self._as_boxes(torch.zeros(0, 6) if boxes is None else boxes)

    @property
    def orig_img(self) -> np.ndarray:
        """(H, W, 3) BGR uint8."""
        if callable(self._image):
            self._image = self._image()
        return self._image

    @orig_img.setter
    def orig_img(self, image: np.ndarray) -> None:
        self._image = image

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_image": self.orig_img}  # functions cannot be pickled

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index) -> Results:
        return self._with(self.boxes[index])

    def __iter__(self) -> Iterator[Results]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Results({self.path!r}, {self.orig_shape[0]}x{self.orig_shape[1]}: {self.verbose().rstrip(', ')})"

    def _as_boxes(self, boxes: Boxes | Tensor | np.ndarray) -> Boxes:
        return boxes if isinstance(boxes, Boxes) else Boxes(boxes, self.orig_shape)

    def _with(self, boxes: Boxes) -> Results:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, boxes=boxes, names=dict(self.names), speed=dict(self.speed))
        return other

    def new(self) -> Results:
        """Results of the same image without boxes."""
        return self._with(Boxes(self.boxes.data[:0], self.orig_shape))

    def update(self, boxes: Boxes | Tensor | np.ndarray | None = None, **other: object) -> None:
        """Put other boxes in place of these, clipped to the image. Raises UserError for what other tasks have (masks=, ...)."""
        if wrong := [name for name, value in other.items() if value is not None]:
            raise UserError(f"update({', '.join(wrong)}=...): this package detects; its results have boxes only.")
        if boxes is None:
            return
        data = self._as_boxes(boxes).data
        data = data.copy() if isinstance(data, np.ndarray) else data.clone()
        height, width = self.orig_shape
        data[:, 0:4:2] = data[:, 0:4:2].clip(0, width)
        data[:, 1:4:2] = data[:, 1:4:2].clip(0, height)
        self.boxes = Boxes(data, self.orig_shape)

    def cpu(self) -> Results:
        """The same with the boxes in the CPU's memory."""
        return self._with(self.boxes.cpu())

    def numpy(self) -> Results:
        """The same with the boxes as numpy arrays."""
        return self._with(self.boxes.numpy())

    def cuda(self, device: int | str | torch.device | None = None) -> Results:
        """The same with the boxes as tensors on a GPU."""
        return self._with(self.boxes.cuda(device))

    def to(self, *args, **kwargs) -> Results:
        """The same with the boxes as tensors on another device or of another type, as Tensor.to."""
        return self._with(self.boxes.to(*args, **kwargs))

    def verbose(self) -> str:
        """'2 persons, 1 bus, ' in the order of the classes, or '(no detections), '."""
        counts = Counter(int(c) for c in self.boxes.cls.tolist())
        if not counts:
            return "(no detections), "
        return "".join(f"{n} {self.names.get(c, c)}{'s' * (n > 1)}, " for c, n in sorted(counts.items()))

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
        *,
        labels: bool = True,
        boxes: bool = True,
        show: bool = False,
        save: bool = False,
        filename: str | Path | None = None,
        color_mode: str = "class",
        **other_tasks: object,
    ) -> np.ndarray | Image.Image:
        """The image with its boxes drawn in: (H, W, 3) BGR uint8, or with `pil` an RGB Pillow image.

        conf, labels, boxes: whether scores, labels and boxes are drawn. line_width, font_size: px, by the size of the picture
        if not given. font: name or file of a font. img: a picture of the same size to draw on instead, BGR array or Pillow.
        show: also show it. save: also write it, to filename. color_mode: a colour for each 'class', or 'instance'.
        other_tasks: masks, probs, kpt_radius, kpt_line, kpt_color and im_gpu are taken and mean nothing here.
        """
        if unknown := set(other_tasks) - {
            "masks",
            "probs",
            "kpt_radius",
            "kpt_line",
            "kpt_color",
            "im_gpu",
            "txt_color",
        }:
            raise TypeError(f"plot() got unknown arguments: {', '.join(sorted(unknown))}")
        if color_mode not in ("class", "instance"):
            raise UserError(f"color_mode={color_mode!r}: expected 'class' or 'instance'.")
        source = self.orig_img if img is None else img
        picture = source.convert("RGB") if isinstance(source, Image.Image) else picture_of(source)
        if boxes:
            picture = draw_boxes(
                picture,
                self.boxes.data.tolist(),
                self.names,
                labels=labels,
                conf=conf,
                line_width=line_width,
                text_size=font_size,
                font=font,
                instance=color_mode == "instance",
            )
        if save:
            _write_picture(picture, self._target(filename))
        if show:
            self._show(picture)
        return picture if pil else np.ascontiguousarray(np.asarray(picture)[..., ::-1])

    def show(self, *args, **kwargs) -> None:
        """Show `plot(...)` in a window or a notebook; where there is no display, write it to a file and say where."""
        self.plot(*args, **{**kwargs, "show": True})

    def save(self, filename: str | Path | None = None, *args, **kwargs) -> str:
        """Write `plot(...)` to a file (results_<stem of the image>.jpg if not named) and return its name."""
        target = self._target(filename)
        self.plot(*args, **{**kwargs, "save": True, "filename": target})
        return str(target)

    def _target(self, filename: str | Path | None) -> Path:
        target = Path(filename or f"results_{Path(self.path).stem}.jpg")
        return target if target.suffix else target.with_suffix(".jpg")

    def _show(self, picture: Image.Image) -> None:
        if _displayed(picture):
            return
        target = Path.cwd() / self._target(None)
        try:
            _write_picture(picture, target)
        except UserError:  # a folder that cannot be written to
            target = Path(tempfile.gettempdir()) / target.name
            _write_picture(picture, target)
        print_note(f"no display here; the picture is in {target}")

    def save_txt(self, txt_file: str | Path, save_conf: bool = False) -> str:
        """Append a line for each box to a label file: class, centre and size over the image's width and height[, score][, id].

        Returns the file's name; without boxes nothing is written.
        """
        boxes, lines = self.boxes, []
        for index, (sides, cls, conf) in enumerate(zip(boxes.xywhn.tolist(), boxes.cls.tolist(), boxes.conf.tolist())):
            words = [f"{int(cls)}", *(f"{side:g}" for side in sides), *([f"{conf:g}"] if save_conf else [])]
            lines.append(" ".join([*words, *([f"{int(boxes.id[index])}"] if boxes.is_track else [])]) + "\n")
        path = Path(txt_file)
        if lines:
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            write_text(path, before + ("\n" if before and not before.endswith("\n") else "") + "".join(lines))
        return str(txt_file)

    def save_crop(self, save_dir: str | Path, file_name: str | Path = "im.jpg") -> None:
        """Write each box's part of the image, 2 % and 10 px larger, to <save_dir>/<class name>/<stem of file_name>.jpg.

        Where that file is there already it is <stem>2.jpg, <stem>3.jpg and so on. JPEG, quality 95.
        """
        name = Path(file_name).name
        stem = Path(name).stem if Path(name).suffix.lower() in Image.registered_extensions() else name
        for (x, y, w, h), cls in zip(self.boxes.xywh.tolist(), self.boxes.cls.tolist()):
            half_w, half_h = (w * CROP_GAIN + CROP_PAD) / 2, (h * CROP_GAIN + CROP_PAD) / 2
            height, width = self.orig_shape
            left, top = max(int(x - half_w), 0), max(int(y - half_h), 0)
            part = self.orig_img[top : min(int(y + half_h), height), left : min(int(x + half_w), width)]
            if part.size:
                folder = Path(save_dir) / _folder_name(str(self.names.get(int(cls), int(cls))), int(cls))
                _write_picture(picture_of(part), _free(folder, stem))

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, object]]:
        """A row {name, class, confidence, box: {x1, y1, x2, y2}[, track_id]} for each box.

        normalize: corners over the image's width and height. decimals: of scores and corners.
        """
        boxes = self.boxes
        corners = (boxes.xyxyn if normalize else boxes.xyxy).tolist()
        rows = []
        for index, (sides, conf, cls) in enumerate(zip(corners, boxes.conf.tolist(), boxes.cls.tolist())):
            row = {
                "name": str(self.names.get(int(cls), int(cls))),
                "class": int(cls),
                "confidence": round(conf, decimals),
                "box": {key: round(side, decimals) for key, side in zip(("x1", "y1", "x2", "y2"), sides)},
            }
            rows.append(row | ({"track_id": int(boxes.id[index])} if boxes.is_track else {}))
        return rows

    def to_json(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as JSON text."""
        return json.dumps(self.summary(normalize, decimals), indent=2)

    tojson = to_json

    def to_csv(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as CSV text, the corners in columns of their own: name,class,confidence,x1,y1,x2,y2[,track_id]."""
        columns = [
            "name",
            "class",
            "confidence",
            "x1",
            "y1",
            "x2",
            "y2",
            *(["track_id"] if self.boxes.is_track else []),
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_flat(row) for row in self.summary(normalize, decimals))
        return text.getvalue()

    def to_xml(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as XML text: <data><row><name>...</name><class>...</class>...</row>...</data>, corners as in `to_csv`."""
        from xml.etree import ElementTree  # a tenth of what predict imports, for one method

        data = ElementTree.Element("data")
        for row in self.summary(normalize, decimals):
            element = ElementTree.SubElement(data, "row")
            for key, value in _flat(row).items():
                ElementTree.SubElement(element, key).text = str(value)
        return ElementTree.tostring(data, encoding="unicode")

    def to_df(self, normalize: bool = False, decimals: int = 5):
        """`summary` as a pandas DataFrame: name, class, confidence, box (a dict)[, track_id]. UserError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise UserError(
                "to_df() makes a pandas DataFrame, and pandas is not installed: pip install pandas . summary() and "
                "to_csv() give the same without it."
            ) from error
        columns = ["name", "class", "confidence", "box", *(["track_id"] if self.boxes.is_track else [])]
        return pandas.DataFrame(self.summary(normalize, decimals), columns=columns)


def _flat(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key != "box"} | row["box"]


def _write_picture(picture: Image.Image, target: Path) -> None:
    if target.suffix.lower() not in Image.registered_extensions():
        raise UserError(
            f"'{target}' cannot be written: '{target.suffix}' is no picture format known here; try .jpg or .png ."
        )
    try:
        with atomic(target) as temporary:
            picture.save(temporary, quality=95)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"'{target}' cannot be written: {error}.") from error


def _displayed(picture: Image.Image) -> bool:
    # A notebook shows pictures in its page; elsewhere Pillow calls the system's viewer.
    notebook = sys.modules.get("IPython")
    shell = notebook.get_ipython() if notebook else None
    if type(shell).__name__ == "ZMQInteractiveShell":
        sys.modules["IPython.display"].display(picture)
        return True
    if sys.platform not in ("win32", "darwin") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        return bool(ImageShow.show(picture))
    except Exception:  # viewers fail in ways of their own
        return False


def _folder_name(name: str, index: int) -> str:
    # A class called "a/b" or ".." is a folder of its own, and not another one.
    return UNSAFE.sub("_", name).strip(". ")[:100] or f"class {index}"


def _free(folder: Path, stem: str) -> Path:
    path, count = folder / f"{stem}.jpg", 1
    while path.exists():
        count += 1
        path = folder / f"{stem}{count}.jpg"
    return path
