"""The results of one image: boxes in its own pixels, names, and the picture with the boxes drawn in.

Written from spec/interface.md 8.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.errors import UserError
from ..config.files import write_text
from ..config.tabular import Tabular, flatten
from ..plots.drawing import draw_boxes, picture_of
from .detections import Boxes
from .pictures import folder_name, show_picture, unused_path, write_picture

STAGES = ("preprocess", "inference", "postprocess")
CROP_GAIN, CROP_PAD = 1.02, 10  # a crop is 2 % larger than its box, and 10 px
CORNERS = ("x1", "y1", "x2", "y2")
OTHER_TASKS = {"masks", "probs", "kpt_radius", "kpt_line", "kpt_color", "im_gpu", "txt_color"}  # without effect here


@dataclass(frozen=True)
class PlotOptions:
    """Further keywords of Results.plot.

    labels, boxes: draw the class names, draw anything at all. show: also show the picture. save: also write the
    picture, to filename. color_mode: a colour for each 'class', or for each 'instance'.
    """

    labels: bool = True
    boxes: bool = True
    show: bool = False
    save: bool = False
    filename: str | Path | None = None
    color_mode: str = "class"

    @classmethod
    def of(cls, **values: object) -> PlotOptions:
        """Check names and values. Raises TypeError for an unknown name, UserError for another color_mode."""
        if unknown := set(values) - {field.name for field in fields(cls)} - OTHER_TASKS:
            raise TypeError(f"plot() got unknown arguments: {', '.join(sorted(unknown))}")
        options = cls(**{name: value for name, value in values.items() if name not in OTHER_TASKS})
        if options.color_mode not in ("class", "instance"):
            raise UserError(f"color_mode={options.color_mode!r}: expected 'class' or 'instance'.")
        return options


class Results(Tabular):
    """One image and its detections. The length is the number of boxes; an index, a slice or a mask selects boxes.

    orig_img (ndarray[H, W, 3]): BGR uint8; or a function without arguments that makes the image when it is first read.
    orig_shape: (h, w). path: of the image. names: class index to name, or a list of names. speed: milliseconds of
    STAGES, None where unknown. boxes: Boxes, a tensor or an array. save_dir: the folder of the run, if the run wrote
    one. input_shape: (h, w) of the network input, where known. masks, probs, keypoints and obb belong to other tasks:
    None.
    """

    masks = probs = keypoints = obb = None
    json_options = {"indent": 2}

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
        input_shape: tuple[int, int] | None = None,
    ):
        self._image = orig_img
        self.path, self.save_dir, self.input_shape = str(path), save_dir, input_shape
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
        """Return Results of the same image with other boxes; an image that was not made yet stays unmade."""
        shared = {"orig_shape": self.orig_shape, "save_dir": self.save_dir, "input_shape": self.input_shape}
        return type(self)(self._image, self.path, self.names, boxes, self.speed, **shared)

    def new(self) -> Results:
        """Return Results of the same image without boxes."""
        return self._with(Boxes(self.boxes.data[:0], self.orig_shape))

    def update(self, boxes: Boxes | Tensor | np.ndarray | None = None, **others: object) -> None:
        """Replace the boxes by others, clipped to the image.

        Raises UserError for the fields of other tasks (masks=, probs=, ...).
        """
        if wrong := [name for name, value in others.items() if value is not None]:
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
        """Return these Results with the boxes in the CPU's memory."""
        return self._with(self.boxes.cpu())

    def numpy(self) -> Results:
        """Return these Results with the boxes as numpy arrays."""
        return self._with(self.boxes.numpy())

    def cuda(self, device: int | str | torch.device | None = None) -> Results:
        """Return these Results with the boxes as tensors on a GPU."""
        return self._with(self.boxes.cuda(device))

    def to(self, *args, **kwargs) -> Results:
        """Return these Results with the boxes as tensors on another device or of another type, as Tensor.to."""
        return self._with(self.boxes.to(*args, **kwargs))

    def verbose(self) -> str:
        """Return '2 persons, 1 bus, ' in the order of the classes, or '(no detections), '."""
        counts = Counter(int(cls) for cls in self.boxes.cls.tolist())
        if not counts:
            return "(no detections), "
        return "".join(f"{n} {self._name(cls)}{'s' * (n > 1)}, " for cls, n in sorted(counts.items()))

    def _name(self, cls: float) -> str:
        return str(self.names.get(int(cls), int(cls)))

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
        """Draw the boxes on the image: (H, W, 3) BGR uint8, or with `pil` an RGB Pillow image.

        conf: draw scores. line_width, font_size: px, by default by the size of the picture. font: name or file of a
        font. img: a picture of the same size to draw on instead, BGR array or Pillow. options: fields of PlotOptions;
        those of other tasks (OTHER_TASKS) are ignored. Raises TypeError for an unknown option, UserError for a wrong
        color_mode.
        """
        plot = PlotOptions.of(**options)
        source = self.orig_img if img is None else img
        picture = source.convert("RGB") if isinstance(source, Image.Image) else picture_of(source)
        if plot.boxes:
            style = {"labels": plot.labels, "conf": conf, "instance": plot.color_mode == "instance"}
            text = {"line_width": line_width, "text_size": font_size, "font": font}
            picture = draw_boxes(picture, self.boxes.data.tolist(), self.names, **style, **text)
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
        """Append a line for each box to a label file (see `label_line`), and return the file's name.

        Nothing is written without boxes.
        """
        boxes, path, lines = self.boxes, Path(txt_file), []
        track_ids = boxes.id.tolist() if boxes.is_track else [None] * len(boxes)
        for cls, xywhn, conf, track_id in zip(boxes.cls.tolist(), boxes.xywhn.tolist(), boxes.conf.tolist(), track_ids):
            lines.append(label_line(cls, xywhn, conf if save_conf else None, track_id))
        if lines:
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            separator = "\n" if before and not before.endswith("\n") else ""
            write_text(path, before + separator + "".join(lines))
        return str(txt_file)

    def save_crop(self, save_dir: str | Path, file_name: str | Path = "im.jpg") -> None:
        """Write the part of the image at each box, 2 % and 10 px larger, as JPEG: <save_dir>/<class name>/<stem>.jpg.

        The stem is that of file_name. Where the file exists its name is <stem>2.jpg, <stem>3.jpg and so on.
        """
        name = Path(file_name).name
        stem = Path(name).stem if Path(name).suffix.lower() in Image.registered_extensions() else name
        height, width = self.orig_shape
        for (x, y, w, h), cls in zip(self.boxes.xywh.tolist(), self.boxes.cls.tolist()):
            half_w, half_h = (w * CROP_GAIN + CROP_PAD) / 2, (h * CROP_GAIN + CROP_PAD) / 2
            left, top = max(int(x - half_w), 0), max(int(y - half_h), 0)
            part = self.orig_img[top : min(int(y + half_h), height), left : min(int(x + half_w), width)]
            if part.size:
                folder = Path(save_dir) / folder_name(self._name(cls), int(cls))
                write_picture(picture_of(part), unused_path(folder, stem))

    def columns(self, flat: bool = False) -> Sequence[str]:
        box = CORNERS if flat else ("box",)
        return "name", "class", "confidence", *box, *(["track_id"] if self.boxes.is_track else [])

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, object]]:
        """Return a record {name, class, confidence, box: {x1, y1, x2, y2}[, track_id]} for each box.

        normalize: corners over the image's width and height. decimals: of scores and corners.
        """
        boxes, records = self.boxes, []
        corners = boxes.xyxyn if normalize else boxes.xyxy
        for sides, conf, cls in zip(corners.tolist(), boxes.conf.tolist(), boxes.cls.tolist()):
            box = {key: round(side, decimals) for key, side in zip(CORNERS, sides)}
            name = self._name(cls)
            records.append({"name": name, "class": int(cls), "confidence": round(conf, decimals), "box": box})
        if boxes.is_track:
            for record, track_id in zip(records, boxes.id.tolist()):
                record["track_id"] = int(track_id)
        return records

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


def label_line(
    cls: float, xywhn: Sequence[float], confidence: float | None = None, track_id: float | None = None
) -> str:
    """The line of a label file for one detection: class, centre and size[, confidence][, track].

    xywhn: centre and size over the image's width and height.
    """
    numbers = [*xywhn] if confidence is None else [*xywhn, confidence]
    track = [] if track_id is None else [str(int(track_id))]
    return " ".join([str(int(cls)), *(f"{number:g}" for number in numbers), *track]) + "\n"
