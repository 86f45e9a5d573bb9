"""The verb convert: a foreign checkpoint to our format, or a checkpoint to the keys of another family."""

from __future__ import annotations

from pathlib import Path

from ...compat.families import TABLES
from ...config.errors import UserError, did_you_mean
from ...config.printable import say
from ...config.settings import Settings
from ...config.weight_files import HUB_WEIGHTS, SAFETENSORS, find_weights, names_folder
from ..info import license_text, print_description
from .checkpoint import Checkpoint
from .foreign import identify_checkpoint, save_state_dict, to_checkpoint
from .hub_folder import save_weights


def run_convert(path: str, settings: Settings) -> Path:
    """Convert the checkpoint at `path`, print what was written, and return its path.

    Without settings.to the result is in our format: a .pt file, safetensors or a folder, as the name of settings.out
    says. With it the result is a state dict in the keys of that family. Raises UserError where settings.out is `path`
    itself, and where there is nothing to convert.
    """
    source = find_weights(path)
    out = Path(settings.out or source.with_name(f"{source.stem}-{settings.to or 'bitfalcon'}.pt"))
    into_folder = settings.out is not None and names_folder(settings.out)
    _check(source, out, settings, into_folder)
    opened = identify_checkpoint(source)
    if settings.to is None and isinstance(opened, Checkpoint) and _form(source) == _form(out) and not into_folder:
        raise UserError(
            f"'{source}' is in our format already. Give to= to write a maker's keys: v1, turbo, yolo11 or yolov8; or "
            "out=x.safetensors or out=folder/ for a form to share."
        )
    checkpoint = opened if isinstance(opened, Checkpoint) else to_checkpoint(opened)
    print_description(source, opened)
    if settings.to is None:
        save_weights(settings.out or out, checkpoint, f"out={out}")
        content = f"{len(checkpoint.state)} tensors in our format"
    else:
        state = save_state_dict(checkpoint, settings.to, out)
        content = f"a state dict of {len(state)} tensors in the keys of {settings.to}"
    say(f"wrote {out}: {content}; licence: {license_text(checkpoint)}")
    return out


def _check(source: Path, out: Path, settings: Settings, into_folder: bool) -> None:
    written = out / HUB_WEIGHTS if into_folder else out
    if any(path.exists() and path.samefile(source) for path in (out, written)):
        raise UserError(f"out={out} is the file to convert; give another name.")
    if settings.to not in (None, *TABLES):
        hint = did_you_mean(settings.to, TABLES)
        raise UserError(f"to={settings.to}: convert takes {', '.join(TABLES)}; datasets are for bitfalcon data.{hint}")
    if settings.to and into_folder:
        raise UserError(f"to={settings.to} writes a state dict, one file: give a name, for example out=x.safetensors .")


def _form(path: Path) -> str:
    return SAFETENSORS if path.is_dir() or path.suffix.lower() == SAFETENSORS else ".pt"
