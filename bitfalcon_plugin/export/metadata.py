"""What an exported file says of itself: names of classes, sizes, licence. Keys as in spec/interface.md section 9.

Values are texts, as ONNX keeps them; other runtimes read stride, task, batch, imgsz and names.
"""

from __future__ import annotations

import ast
import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..compat.allowed import one_line
from ..config.errors import UserError
from ..config.version import __version__

MAX_TEXT = 1_000_000  # characters of one value that are read
MAX_NAME = 200
EXAMPLE = "names={0: 'person', 1: 'dog'}, stride=32"


@dataclass(frozen=True)
class Metadata:
    """names: class index to name. multiple: what the sides of an image must be a multiple of. imgsz: (H, W) of the export.

    batch: images of a call. args: the settings of the export. license: of the weights, as their checkpoint has it.
    """

    names: Mapping[int, str]
    multiple: int
    imgsz: tuple[int, int]
    batch: int = 1
    args: Mapping[str, object] = field(default_factory=dict)
    license: str | None = None
    description: str = ""
    date: str = ""

    def texts(self) -> dict[str, str]:
        """Key -> text, as a file holds them."""
        values = {
            "description": self.description,
            "author": "bitfalcon",
            "date": self.date or datetime.datetime.now().isoformat(),
            "version": __version__,
            "license": self.license or "not stated",
            "docs": "bitfalcon help",
            "stride": self.multiple,
            "task": "detect",
            "batch": self.batch,
            "imgsz": list(self.imgsz),
            "names": dict(self.names),
            "args": dict(self.args),
            "channels": 3,
            "end2end": False,
        }
        return {key: str(value) for key, value in values.items()}


def read_metadata(texts: Mapping[str, object], path: object) -> Metadata:
    """Metadata from the keys of a file, ours or another maker's.

    Raises UserError where names or stride are not there or no such thing; other keys may be absent.
    """
    values = {key: _literal(texts.get(key)) for key in ("names", "stride", "imgsz", "batch", "args", "task")}
    if values["names"] is None or values["stride"] is None:
        missing = " and ".join(key for key in ("names", "stride") if values[key] is None)
        raise UserError(
            f"'{path}' does not say what it detects (no {missing} in its metadata), as files of other programs: export the "
            f"checkpoint with `bitfalcon export`, or add the keys with their maker's tool, for example {EXAMPLE}."
        )
    if values["task"] not in (None, "detect"):
        raise UserError(f"'{path}' is a model for {one_line(str(values['task']), MAX_NAME)}; this package detects.")
    names, stride, imgsz = _names(values["names"]), values["stride"], values["imgsz"]
    stride = int(max(stride)) if isinstance(stride, (list, tuple)) and stride and all(map(_counts, stride)) else stride
    wrong = [] if names is not None else ["names"]
    wrong += [] if _counts(stride) and stride <= 4096 else ["stride"]
    imgsz = [imgsz, imgsz] if _counts(imgsz) else imgsz if imgsz is not None else [640, 640]
    wrong += [] if isinstance(imgsz, (list, tuple)) and len(imgsz) == 2 and all(map(_counts, imgsz)) else ["imgsz"]
    if wrong:
        raise UserError(
            f"'{path}' has metadata that cannot be meant ({', '.join(wrong)}); expected for example {EXAMPLE}, imgsz=[640, 640]."
        )
    args = values["args"] if isinstance(values["args"], dict) else {}
    said = {key: one_line(str(texts[key]), MAX_NAME) for key in ("license", "description", "date") if texts.get(key)}
    return Metadata(
        names, int(stride), tuple(map(int, imgsz)), values["batch"] if _counts(values["batch"]) else 1, args, **said
    )


def _literal(text: object) -> object:
    # A value as a file has it: a text of a literal, or (YAML, JSON) the value itself. None: not there, or none that is understood.
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text) if len(text) <= MAX_TEXT else None
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text.strip() or None


def _counts(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return number and value == int(value) and 1 <= value < 2**31


def _names(value: object) -> dict[int, str] | None:
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        return None
    try:
        found = {int(key): one_line(str(name), MAX_NAME) for key, name in value.items()}
    except (TypeError, ValueError, OverflowError):
        return None
    return dict(sorted(found.items())) if sorted(found) == list(range(len(found))) else None
