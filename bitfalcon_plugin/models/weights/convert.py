"""The verb convert: a foreign checkpoint to our format, or a checkpoint to the keys of another family."""

from __future__ import annotations

from pathlib import Path

from ...config.errors import UserError
from ...config.settings import Settings
from ..info import license_text, print_description
from .checkpoint import Checkpoint, save_checkpoint
from .foreign import identify_checkpoint, save_state_dict, to_checkpoint


def run_convert(path: str, settings: Settings) -> Path:
    """Convert the checkpoint at `path`, print what was written, and return its path.

    Without settings.to the result is in our format; with it the result is a state dict in the keys of that family.
    Raises UserError where settings.out is `path` itself, and where there is nothing to convert.
    """
    source = Path(path)
    out = Path(settings.out or source.with_name(f"{source.stem}-{settings.to or 'bitfalcon'}.pt"))
    if out.exists() and out.samefile(source):
        raise UserError(f"out={out} is the file to convert; give another name.")
    if settings.to == "yolo":
        raise UserError("to=yolo is for datasets (bitfalcon data); convert takes to=v1, turbo, yolo11 or yolov8.")
    opened = identify_checkpoint(source)
    if settings.to is None and isinstance(opened, Checkpoint):
        raise UserError(
            f"'{source}' is in our format already. Give to= to write a maker's keys: v1, turbo, yolo11 or yolov8."
        )
    checkpoint = opened if isinstance(opened, Checkpoint) else to_checkpoint(opened)
    print_description(source, opened)
    if settings.to is None:
        save_checkpoint(out, checkpoint)
        content = f"{len(checkpoint.state)} tensors in our format"
    else:
        state = save_state_dict(checkpoint, settings.to, out)
        content = f"a state dict of {len(state)} tensors in the keys of {settings.to}"
    print(f"wrote {out}: {content}; licence: {license_text(checkpoint)}")
    return out
