"""The settings of an export: the options that a format takes, settings without effect, the path and the input shape."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..config.default_table import active_settings
from ..config.errors import UserError
from ..config.notes import print_note
from ..config.settings import Settings
from ..config.weight_files import names_weights
from ..ops.letterbox import legal_size, rounding_note
from ..tasks import Task
from .formats import EXPORT_FORMATS, OPTIONS

OPSET, MIN_OPSET, MAX_OPSET = 17, 11, 20  # the usual one; the range that torch's ONNX exporter has for these networks
PROGRAM_OPSET = 18  # the lowest, and usual, of torch's maintained exporter
SUPPRESSION_SETTINGS = frozenset(("conf", "iou", "max_det", "agnostic_nms"))  # used where suppression is in the file
MEASURING_SETTINGS = frozenset(("split", "workers", "single_cls"))  # used where data= is given, for val


def check_options(format_: str, settings: Settings, task: Task) -> None:
    """Raise UserError for an option that the format or task does not take, and for options that exclude each other.

    An option that asks for nothing (False, None or its default) is no error, and neither is `simplify`.
    """
    row = EXPORT_FORMATS[format_]
    if reason := row.not_here:
        if row.runs_on.elsewhere:
            raise UserError(f"format={format_}: its files are {reason}. {row.runs_on.elsewhere}.")
        if not settings.unchecked:
            raise UserError(
                f"format={format_}: its files are {reason}, so that this one could not be compared with the network. "
                "Export it there, or give unchecked=True to write it all the same."
            )
    for option, default in OPTIONS.items():
        value = getattr(settings, option)
        if option in row.options or value in (default, False, None) or option == "simplify":
            continue
        reason = row.not_taken.get(option, f"it takes {', '.join(('imgsz', 'batch', *row.options))}")
        raise UserError(f"{option}={value} is nothing for format={format_}: {reason}.")
    if settings.nms and not task.objects:
        raise UserError(
            f"nms=True: a model for task={task.name} finds no boxes that could be suppressed; leave it away."
        )
    if settings.half and settings.int8:
        raise UserError("half=True and int8=True: give one of them.")
    if settings.int8 and settings.dynamic:
        raise UserError("int8=True and dynamic=True: ranges of 8-bit numbers are found for one size; give one of them.")


def note_unused(
    format_: str, settings: Settings, given: Collection[str] | None, data_remembered: bool, measured: bool, on_cpu: bool
) -> None:
    """Print one note that names the settings that were given, differ from their defaults and change nothing here.

    measured: whether val measures the file.
    """
    keys = set(settings.unused_by("export"))
    keys -= (SUPPRESSION_SETTINGS if settings.nms else set()) | (MEASURING_SETTINGS if measured else set())
    if EXPORT_FORMATS[format_].is_run_here:
        keys |= settings.given & {"unchecked"}  # the file is compared as every other
    keys |= settings.given & ({"simplify", "workspace"} - set(EXPORT_FORMATS[format_].options))
    if not on_cpu and not EXPORT_FORMATS[format_].needs_gpu:
        keys |= settings.given & {"device"}
    if given is not None:
        keys &= set(given)
    elif data_remembered:
        keys -= {"single_cls"}  # it may be the checkpoint's own
    unused = sorted(key for key in keys if getattr(settings, key) != active_settings()[key]["default"])
    if unused:
        names = ", ".join(f"{key} (needs nms=True)" if key in SUPPRESSION_SETTINGS else key for key in unused)
        print_note(f"without effect on an export: {names}")


def target_path(format_: str, settings: Settings, source: str) -> Path:
    """The path of the file or folder to write: settings.out, or the name of `source` with the suffix of the format.

    Raises UserError for an out= that does not end in that suffix or is the suffix alone.
    """
    suffix, origin = EXPORT_FORMATS[format_].suffix, Path(source)
    if settings.out is None:
        folder = origin.parent if names_weights(origin) else Path()
        return folder / f"{origin.stem}{suffix}"
    example = f"for example out={origin.stem}{suffix} ."
    if not settings.out.rstrip("/\\").endswith(suffix):
        raise UserError(f"out={settings.out}: a name for format={format_} ends in {suffix}, {example}")
    if Path(settings.out).name == suffix:
        raise UserError(f"out={settings.out}: a suffix alone is no name; expected {example}")
    return Path(settings.out)


def input_shape(multiple: int, settings: Settings) -> tuple[tuple[int, int], int]:
    """The size (H, W) and the number of images of the input.

    A side becomes the next multiple of `multiple`, with a note. Raises UserError for a batch= below 1.
    """
    if text := rounding_note(settings.imgsz, multiple):
        print_note(text)
    batch = settings.batch if "batch" in settings.given else 1
    if batch < 1:
        raise UserError(f"batch={batch:g}: an export has a whole number of images, 1 or more; dynamic=True takes any.")
    return legal_size(settings.imgsz, multiple), int(batch)


def writable_opset(asked: int | None) -> int | None:
    """Return the opset that was asked for, or the nearest one that can be written, with a note."""
    if asked is None:
        return None
    opset = min(max(asked, MIN_OPSET), MAX_OPSET)
    if opset != asked:
        print_note(f"opset={asked}: opsets {MIN_OPSET} to {MAX_OPSET} can be written; writing {opset}.")
    return opset
