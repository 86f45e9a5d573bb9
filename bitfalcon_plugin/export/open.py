"""From the name of an exported model to an Runtime, and what a YOLO object does with one."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from ..config.devices import select_device
from ..config.errors import MissingFileError, UserError
from ..config.settings import Settings
from .formats import EXPORT_FORMATS, find_format, format_of, require
from .runtimes.runtime import Runtime, last_line

RUNTIMES = {  # format: module of this package, class
    "onnx": ("onnx", "OnnxRuntime"),
    "torchscript": ("torchscript", "TorchScriptRuntime"),
    "pt2": ("pt2", "Pt2Runtime"),
    "openvino": ("openvino", "OpenVinoRuntime"),
}


def open_exported(path: str | Path, device: object = None, half: bool = False) -> Runtime:
    """The engine of an exported model, on a device (see devices.select_device); half: 16-bit arithmetic where the runtime chooses.

    Without a device the best that torch and the runtime both have.

    Raises MissingFileError, or UserError for a file that is none, a refused format and a package that is not installed.
    """
    path, format_ = _found(path)
    wanted = select_device(device)
    module, name = RUNTIMES[format_]
    try:
        engine = getattr(import_module(f".runtimes.{module}", __package__), name)(path, wanted, half)
    except ImportError as error:
        raise UserError(
            f"'{path}' needs {' and '.join(EXPORT_FORMATS[format_].needs)}, which is installed but cannot be imported: {last_line(error)}. "
            "Install it again: pip install --force-reinstall "
            f"'bitfalcon[{', '.join(sorted(set(EXPORT_FORMATS[format_].needs.values())))}]'"
        ) from error
    if device not in (None, "") and wanted.type == "cuda" and engine.device.type == "cpu":
        raise UserError(
            f"device={device}: {engine.runtime} computes '{path}' on the CPU only. Give device=cpu"
            + (", or install onnxruntime-gpu." if format_ == "onnx" else ".")
        )
    return engine


def _found(path: str | Path) -> tuple[Path, str]:
    path, format_ = Path(path), format_of(path)
    if format_ is None:
        raise UserError(
            f"'{path}' is no exported model; those end in {', '.join(row.suffix for row in EXPORT_FORMATS.values() if not row.reason)}."
        )
    if EXPORT_FORMATS[format_].reason:
        raise UserError(
            f"'{path}': files of format {format_} are not run here. Give the checkpoint (.pt) or an export of another format."
        )
    if not path.exists():
        raise MissingFileError(
            f"Model '{path}' does not exist. `bitfalcon export model=best.pt format={format_}` writes one."
        )
    require(find_format(format_))
    return path, format_


def show_export(path: str) -> None:
    """Print what an exported model says of itself, and its classes: what `bitfalcon info` shows of it."""
    engine = open_exported(path, "cpu")
    about = engine.about
    print(
        f"{path}: {engine!r}; {about.description or 'no description'}; {about.date or 'no date'}; "
        f"licence: {about.license or 'not stated'}"
    )
    print(f"classes: {', '.join(engine.names.values())}")


class ExportedModel:
    """An exported model as a YOLO object holds it: opened when it is first needed, and again for another device or precision.

    Raises as `open_exported` at once where the file or its package is not there.
    """

    def __init__(self, path: str | Path):
        self.path, self.format = _found(path)
        self._opened: tuple[tuple, Runtime] | None = None

    @property
    def runtime(self) -> Runtime:
        """The engine as it was last opened; on the CPU where it never was."""
        return self._opened[1] if self._opened else self._open("cpu", False)

    def default_settings(self, mode: str) -> dict[str, object]:
        """What the file says for settings that nobody gave. UserError for a mode that needs the network."""
        if mode not in ("predict", "val"):
            raise UserError(
                f"{mode} needs a checkpoint: '{self.path}' is an exported model, which predicts and is measured (val) only. "
                "Take the .pt it was made from."
            )
        high, wide = self.runtime.imgsz
        if mode == "val" and self.runtime.fixed and high != wide:
            raise UserError(
                f"val measures on squares; '{self.path}' takes {high} x {wide} pixels only. Export it with dynamic=True, or with "
                f"imgsz={max(high, wide)}."
            )
        return {"imgsz": high if high == wide else [high, wide]}

    def runtime_for(self, settings: Settings) -> Runtime:
        """The engine for a run with these settings. UserError for what this file cannot do."""
        wanted = (settings.imgsz, settings.imgsz) if isinstance(settings.imgsz, int) else tuple(settings.imgsz)
        wanted = wanted if len(wanted) == 2 else wanted * 2
        fixed = self.runtime.fixed
        if fixed and wanted != fixed:
            sides = " x ".join(map(str, fixed))
            raise UserError(
                f"imgsz={settings.imgsz}: '{self.path}' takes {sides} pixels only. Leave imgsz away, or export again with "
                "dynamic=True or this imgsz."
            )
        for key, given in (
            ("embed", settings.embed is not None),
            ("augment", settings.augment and bool(fixed or self.runtime.suppressed)),
        ):
            if given:
                raise UserError(
                    f"{key}={getattr(settings, key)}: '{self.path}' is an exported model"
                    + (
                        ", whose rows cannot be looked into"
                        if key == "embed"
                        else " of one size, or with suppression inside"
                    )
                    + ". Take the checkpoint (.pt) it was made from."
                )
        self._tell(settings)
        return self._open(settings.device, bool(settings.half))

    def _tell(self, settings: Settings) -> None:
        # What was decided when the file was written.
        args, asked = self.runtime.about.args, settings.conf if settings.mode == "predict" else settings.conf or 0.001
        if self.runtime.suppressed:
            inside = ", ".join(f"{key}={args[key]}" for key in ("conf", "iou", "max_det") if key in args)
            least = args.get("conf")
            least = least if isinstance(least, (int, float)) else 0.25
            if asked is not None and asked < least or {"iou", "max_det"} & settings.given:
                _note(
                    f"suppression is inside '{self.path}' ({inside}): lower scores and boxes that it leaves out do not come back."
                )
        if settings.half and not args.get("half") and self.format != "openvino":
            _note(
                f"half=True: '{self.path}' computes in the type it was exported in, float32; export it with half=True."
            )
        if settings.compile:
            _note(
                f"compile={settings.compile}: '{self.path}' is run by {self.runtime.runtime}, which compiles by itself or not at all."
            )

    def _open(self, device: object, half: bool) -> Runtime:
        key = str(select_device(device)), half
        if self._opened is None or self._opened[0] != key:
            self._opened = key, open_exported(self.path, device, half)
        return self._opened[1]


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
