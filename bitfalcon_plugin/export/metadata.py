"""What an exported file says about itself: names of classes, sizes, licence. Keys as in spec/interface.md section 9.

Values are texts, as ONNX keeps them. Other programs read stride, task, batch, imgsz and names.
"""

from __future__ import annotations

import ast
import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..compat.allowed import cut_line
from ..config.errors import UserError, blaming
from ..config.notes import print_note
from ..config.version import __version__
from ..ops.keypoint_layout import KEYS, KeypointLayout, read_layout
from ..tasks import TASKS, Task

MAX_TEXT = 1_000_000  # characters of a value that is read
MAX_NAME = 200
MAX_STRIDE = 4096
MAX_SIDE = 16_384  # pixels of an image, as of the setting imgsz
MAX_PIXELS = 1 << 28  # of the images of a call together, 3 GB in float32
READ = ("names", "stride", "multiple", "imgsz", "batch", "args", "task")  # keys that are no plain texts
EXAMPLE = "names={0: 'person', 1: 'dog'}, stride=32"


@dataclass(frozen=True)
class Metadata:
    """What a program needs to know about an exported model.

    names: class index -> name. multiple: the sides of an image must be multiples of it. imgsz: (H, W) of the export.
    batch: the images of a call. args: the settings of the export. license: that of the weights, as their checkpoint has
    it. task: a key of tasks.TASKS; None where the file does not say it. stride: pixels a cell of the coarsest level of
    the head, None where it is `multiple`. transform: how an image becomes an input, in words. layout: what a row of the
    first output holds, in words. keypoints: what is known of the keypoints of every object; None without keypoints.
    """

    names: Mapping[int, str]
    multiple: int
    imgsz: tuple[int, int]
    batch: int = 1
    args: Mapping[str, object] = field(default_factory=dict)
    license: str | None = None
    description: str = ""
    date: str = ""
    task: str | None = None
    stride: int | None = None
    transform: str = ""
    layout: str = ""
    keypoints: KeypointLayout | None = None

    def values(self) -> dict[str, object]:
        """Key -> value, for a file that keeps values."""
        return {
            "description": self.description,
            "author": "bitfalcon",
            "date": self.date or datetime.datetime.now().isoformat(),
            "version": __version__,
            "license": self.license or "not stated",
            "docs": "bitfalcon help",
            "stride": self.stride or self.multiple,
            "multiple": self.multiple,
            "task": self.task,
            "batch": self.batch,
            "imgsz": list(self.imgsz),
            "names": dict(self.names),
            "args": dict(self.args),
            "channels": 3,
            "end2end": False,
            "transform": self.transform,
            "layout": self.layout,
            **(self.keypoints.as_keys() if self.keypoints else {}),
        }

    def texts(self) -> dict[str, str]:
        """Key -> text, for a file that keeps texts."""
        return {key: str(value) for key, value in self.values().items()}


def read_metadata(texts: Mapping[str, object], path: object, task: str | None = None) -> Metadata:
    """Read the keys of a file of ours or of another maker's; `path` is for messages.

    task: a key of tasks.TASKS, for a file that does not say its task.

    Raises UserError where names or stride are missing or wrong, for a task that is not in tasks.TASKS, and where the
    task has keypoints and kpt_shape is missing. Other keys may be missing; a note names those about keypoints that
    cannot be used.
    """
    with blaming(path):
        return _read(texts, path, task)


def _read(texts: Mapping[str, object], path: object, task: str | None) -> Metadata:
    values = {key: _literal(texts.get(key)) for key in READ}
    missing = " and ".join(key for key in ("names", "stride") if values[key] is None)
    if missing:
        raise UserError(
            f"'{path}' does not say what it detects (no {missing} in its metadata), as files of other programs: export "
            "the checkpoint with `bitfalcon export`, or add the keys with their maker's tool, for example "
            f"{EXAMPLE}, and task=segment to a segmentation model."
        )
    task = values["task"] if isinstance(values["task"], str) else task
    if task is not None and task not in TASKS:
        known = ", ".join(TASKS)
        raise UserError(f"'{path}' is a model for task={cut_line(task, MAX_NAME)}; models for {known} are run here.")
    parsed = {"names": _names(values["names"]), "stride": _stride(values["stride"]), "imgsz": _size(values["imgsz"])}
    batch = values["batch"] if _is_count(values["batch"]) else 1
    if parsed["imgsz"] and not _fits(batch, parsed["imgsz"]):
        parsed["batch and imgsz"] = None
    if task and TASKS[task].keypoints:
        parsed["kpt_shape"] = _keypoints(texts, len(parsed["names"] or ()), path)
    if wrong := ", ".join(key for key, value in parsed.items() if value is None):
        raise UserError(
            f"'{path}' has metadata that cannot be meant ({wrong}); expected for example {EXAMPLE}, imgsz=[640, 640]."
        )
    multiple = _stride(values["multiple"]) or parsed["stride"]
    return Metadata(
        names=parsed["names"],
        multiple=multiple,
        imgsz=parsed["imgsz"],
        batch=int(batch),
        args=values["args"] if isinstance(values["args"], dict) else {},
        task=task,
        stride=None if parsed["stride"] == multiple else parsed["stride"],
        keypoints=parsed.get("kpt_shape"),
        **{
            key: cut_line(str(texts[key]), MAX_NAME)
            for key in ("license", "description", "date", "transform", "layout")
            if texts.get(key)
        },
    )


def check_input(path: object, batch: int, size: tuple[int, int]) -> None:
    """Raise UserError for a number of images of a call and their size (H, W) that no model is made for."""
    if not _fits(batch, size):
        raise UserError(
            f"'{path}' takes {batch} images of {size[0]} x {size[1]} pixels in a call; expected sides of at most "
            f"{MAX_SIDE} pixels, {MAX_PIXELS} together. Export the checkpoint with a smaller batch or imgsz."
        )


def _fits(batch: float, size: tuple[int, int]) -> bool:
    return max(size) <= MAX_SIDE and batch * math.prod(size) <= MAX_PIXELS


def _literal(text: object) -> object:
    """The value of a text that is a literal. Other values, as YAML and JSON have them, come back as they are.

    None where there is no value or it is too long. A text that is no literal comes back without spaces around it.
    """
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text) if len(text) <= MAX_TEXT else None
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text.strip() or None


def _is_count(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1 <= value < 2**31:
        return False  # NaN is not between either
    return value == int(value)


def _stride(value: object) -> int | None:
    """The multiple that a stride, or the largest of several, stands for; None for anything else."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values or not all(map(_is_count, values)) or max(values) > MAX_STRIDE:
        return None
    return int(max(values))


def _size(value: object) -> tuple[int, int] | None:
    """(H, W) of an imgsz: one side, two sides, or (640, 640) where there is none; None for anything else."""
    value = 640 if value is None else value
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    fits = len(sides) == 2 and all(map(_is_count, sides)) and max(sides) <= MAX_SIDE
    return tuple(map(int, sides)) if fits else None


def _keypoints(texts: Mapping[str, object], nc: int, path: object) -> KeypointLayout | None:
    """What the keys say about keypoints; None without a usable kpt_shape."""
    problems: list[str] = []
    values = {key: _literal(texts.get(key)) for key in ("kpt_shape", *KEYS)}
    if isinstance(values["kpt_shape"], (list, tuple)):  # other programs write numbers as they like
        values["kpt_shape"] = [int(item) if _is_count(item) else item for item in values["kpt_shape"]]
    layout = read_layout(values, nc, problems)
    if layout and problems:
        print_note(f"'{path}': not used of its metadata: {'; '.join(cut_line(text, MAX_NAME) for text in problems)}")
    return layout


def describe_layout(names: Mapping[int, str], further: Sequence[str], suppressed: bool, task: Task) -> str:
    """Return what a row of the first output holds, in words. further: what the values behind the classes are."""
    classes = f"probability of each of {len(names)} classes"
    if not task.objects:
        return classes
    corners, centre = "x1 y1 x2 y2", "centre x y, width, height"
    detection = f"{centre if task.oriented else corners}, score, class"
    parts = [detection if suppressed else f"{centre}, {classes}"]
    if further[:1] == ("x",):
        columns = list(dict.fromkeys(further))
        parts.append(f"{len(further) // len(columns)} keypoints of {' '.join(columns)}")
    elif further == ("angle",):
        parts.append("angle in radians, which turns the width's axis clockwise from x")
    elif further:
        parts.append(f"{len(further)} mask coefficients")
    return ", ".join(parts)


def _names(value: object) -> dict[int, str] | None:
    """Class index -> name, from a list or a dict; None where the indices are not 0, 1, 2, ..."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        return None
    try:
        names = {int(key): cut_line(str(name), MAX_NAME) for key, name in value.items()}
    except (TypeError, ValueError, OverflowError):
        return None
    return dict(sorted(names.items())) if sorted(names) == list(range(len(names))) else None
