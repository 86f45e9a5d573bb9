"""Open an exported model by its name, and answer what a YOLO object asks of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from ..config.devices import select_device
from ..config.errors import MissingFileError, UserError, WrongModelError
from ..config.notes import print_note
from ..config.printable import say
from ..config.settings import Settings
from ..models.info import Description
from ..tasks import TASKS
from .formats import EXPORT_FORMATS, WRITABLE_FORMATS, find_format, format_of, require
from .runtimes.runtime import Runtime, last_line
from .seal import require_own, try_once

RUNTIMES = {  # format -> module in runtimes/, class
    "onnx": ("onnx", "OnnxRuntime"),
    "torchscript": ("torchscript", "TorchScriptRuntime"),
    "pt2": ("pt2", "Pt2Runtime"),
    "openvino": ("openvino", "OpenVinoRuntime"),
    "mnn": ("mnn", "MnnRuntime"),
    "executorch": ("executorch", "ExecutorchRuntime"),
    "litert": ("litert", "LitertRuntime"),
    "ncnn": ("ncnn", "NcnnRuntime"),
    "coreml": ("coreml", "CoremlRuntime"),
    "engine": ("tensorrt", "TensorRtRuntime"),
}
INSIDE_CONF = 0.25  # of suppression inside a file that does not say it
VAL_CONF = 0.001
SECONDS_PER_INPUT, MEMORY_PER_INPUT = 2e-7, 100  # of a first run, for each byte of its input; the latter in bytes


def open_exported(
    path: str | Path, device: object = None, half: bool = False, task: str | None = None, written_now: bool = False
) -> Runtime:
    """Open an exported model on a device (see config.devices.select_device).

    A file that has no seal (seal.py) is tried in a process of its own first, or refused where its format is own_only.
    written_now: this process has written it.

    Without a device the model runs on the best one that torch and its runtime both have. half: compute in 16 bits,
    where the runtime can choose. task: a key of tasks.TASKS, for a file that does not say its task.

    Raises MissingFileError, or UserError for a file that is no exported model, that crashes or hangs its runtime, for a
    refused format, for a package that is not installed and for a GPU that the runtime does not use.
    """
    path, format_ = _checked(path)
    selected = device_for(format_, device)
    if EXPORT_FORMATS[format_].own_only and not written_now:
        require_own(path, format_)
    elif not written_now:
        try_once(path, _first_run, format_, task)
    runtime = _open(path, format_, selected, half, task)
    if device not in (None, "") and selected.type == "cuda" and runtime.device.type == "cpu":
        repair = "Give device=cpu, or install onnxruntime-gpu." if format_ == "onnx" else "Give device=cpu."
        raise UserError(f"device={device}: {runtime.runtime} computes '{path}' on the CPU only. {repair}")
    return runtime


def device_for(format_: str, device: object) -> torch.device:
    """The device that `device` names, on which a file of the format is opened (see config.devices.select_device).

    Raises UserError where the format runs on GPUs alone and `device` names none.
    """
    selected = select_device(device)
    if EXPORT_FORMATS[format_].needs_gpu and selected.type != "cuda":
        named = selected.type if device in (None, "") else device
        raise UserError(
            f"device={named}: files of format {format_} are run on NVIDIA GPUs only. Leave device= away, or give "
            "device=0."
        )
    return selected


def usual_device(format_: str | None) -> str | None:
    """The device on which a file is opened to look into it: the CPU, or None, the first GPU, where it needs a GPU."""
    return None if format_ in EXPORT_FORMATS and EXPORT_FORMATS[format_].needs_gpu else "cpu"


def _first_run(allow: Callable[[float, int], None], path: Path, format_: str, task: str | None) -> None:
    """Open a file on the CPU and run it once on an input of the size that it says."""
    runtime = _open(path, format_, torch.device("cpu"), False, task)
    images = runtime.example()
    allow(SECONDS_PER_INPUT * images.nbytes, MEMORY_PER_INPUT * images.nbytes)
    runtime.run(images)
    del runtime  # its end is tried, too


def _open(path: Path, format_: str, device: torch.device, half: bool, task: str | None) -> Runtime:
    module, name = RUNTIMES[format_]
    try:
        return getattr(import_module(f".runtimes.{module}", __package__), name)(path, device, half, task)
    except ImportError as error:
        needs = EXPORT_FORMATS[format_].needs
        packages, extras = " and ".join(needs), ", ".join(sorted(set(needs.values())))
        raise UserError(
            f"'{path}' needs {packages}, which is installed but cannot be imported: {last_line(error)}. Install it "
            f"again: pip install --force-reinstall 'bitfalcon[{extras}]'"
        ) from error


def _checked(path: str | Path) -> tuple[Path, str]:
    """The path and format of an exported model that exists and can be run here; UserError for any other."""
    path, format_ = Path(path), format_of(path)
    if format_ is None:
        suffixes = ", ".join(EXPORT_FORMATS[name].suffix for name in WRITABLE_FORMATS)
        raise UserError(f"'{path}' is no exported model; those end in {suffixes}.")
    if EXPORT_FORMATS[format_].reason:
        raise UserError(
            f"'{path}': files of format {format_} are not run here. Give the checkpoint (.pt) or an export of another "
            "format."
        )
    if not path.exists():
        raise MissingFileError(
            f"Model '{path}' does not exist. `bitfalcon export model=best.pt format={format_}` writes one."
        )
    if reason := EXPORT_FORMATS[format_].not_here:
        raise UserError(
            f"'{path}': files of format {format_} are {reason}. Give the checkpoint (.pt) or an export of another "
            "format."
        )
    if not path.is_file() and not path.is_dir():
        raise UserError(f"'{path}' is no file. Give the path of an exported model on disk.")
    require(find_format(format_))
    return path, format_


def show_export(path: str) -> Description:
    """Print what an exported model says about itself, and its classes, for `bitfalcon info`."""
    runtime = open_exported(path, usual_device(format_of(path)))
    metadata = runtime.about
    say(
        f"{path}: {runtime!r}; task {runtime.task}; {metadata.description or 'no description'}; "
        f"{metadata.date or 'no date'}; licence: {metadata.license or 'not stated'}"
    )
    say(f"classes: {', '.join(runtime.names.values())}")
    about = {"description": metadata.description, "date": metadata.date, "licence": metadata.license}
    runs = {"format": format_of(path), "runtime": runtime.runtime, "imgsz": list(runtime.imgsz)}
    return Description(
        {"kind": "exported model", "path": str(path), "task": runtime.task, "names": runtime.names, **about, **runs}
    )


class ExportedModel:
    """An exported model that is opened when it is first used, and again for another device or precision.

    task: a key of tasks.TASKS, for a file that does not say its task. Raises UserError at once where the file or the
    package that runs it is missing.
    """

    def __init__(self, path: str | Path, task: str | None = None):
        self.path, self.format = _checked(path)
        self._given_task = task
        self._opened: tuple[tuple[str, bool], Runtime] | None = None

    @property
    def runtime(self) -> Runtime:
        """The runtime that was opened last; one on the usual device of the format where there is none yet."""
        return self._opened[1] if self._opened else self._open(usual_device(self.format), False)

    @property
    def task(self) -> str:
        """The task of the model, a key of tasks.TASKS."""
        return self.runtime.task

    def default_settings(self, mode: str) -> dict[str, object]:
        """The settings of a mode that the file decides where the user gives none.

        Raises WrongModelError for a mode that needs the network, and UserError for val where the file takes one oblong
        size.
        """
        if mode not in ("predict", "track", "val"):
            raise WrongModelError(
                f"{mode} needs a checkpoint: '{self.path}' is an exported model, which predicts and is measured (val) "
                "only. Take the .pt it was made from."
            )
        height, width = self.runtime.imgsz
        if mode == "val" and self.runtime.fixed and height != width:
            raise UserError(
                f"val measures on squares; '{self.path}' takes {height} x {width} pixels only. Export it with "
                f"dynamic=True, or with imgsz={max(height, width)}."
            )
        letterbox = {"letterbox": True} if self.runtime.about.args.get("letterbox") is True else {}
        return {"imgsz": height if height == width else [height, width], **letterbox}

    def runtime_for(self, settings: Settings) -> Runtime:
        """The runtime for predict or val with these settings; UserError for settings that the file cannot serve."""
        settings = TASKS[self.task].effective(settings)
        sides = [settings.imgsz] if isinstance(settings.imgsz, int) else list(settings.imgsz)
        size = tuple(sides if len(sides) == 2 else sides * 2)
        fixed = self.runtime.fixed
        if fixed and size != fixed:
            raise UserError(
                f"imgsz={settings.imgsz}: '{self.path}' takes {fixed[0]} x {fixed[1]} pixels only. Leave imgsz away, "
                "or export again with dynamic=True or this imgsz."
            )
        if settings.embed is not None:
            raise self._needs_network(f"embed={settings.embed}", ", whose rows cannot be looked into")
        if settings.augment and (fixed or self.runtime.suppressed):
            raise self._needs_network(f"augment={settings.augment}", " of one size, or with suppression inside")
        self._note_settings(settings)
        return self._open(settings.device, bool(settings.half))

    def _needs_network(self, setting: str, reason: str) -> UserError:
        return UserError(
            f"{setting}: '{self.path}' is an exported model{reason}. Take the checkpoint (.pt) it was made from."
        )

    def _note_settings(self, settings: Settings) -> None:
        """Print a note for each setting that was decided when the file was written."""
        args = self.runtime.about.args
        if self.runtime.suppressed and self._asks_for_more(settings):
            inside = ", ".join(f"{key}={args[key]}" for key in ("conf", "iou", "max_det") if key in args)
            print_note(
                f"suppression is inside '{self.path}' ({inside}): lower scores and boxes that it leaves out do "
                "not come back."
            )
        if settings.half and not args.get("half") and self.format != "openvino":
            reason = "computes in the type it was exported in, float32; export it with half=True."
            print_note(f"half=True: '{self.path}' {reason}")
        if settings.compile:
            reason = f"is run by {self.runtime.runtime}, which compiles by itself or not at all."
            print_note(f"compile={settings.compile}: '{self.path}' {reason}")

    def _asks_for_more(self, settings: Settings) -> bool:
        """Whether the settings ask for boxes that suppression inside the file may have left out."""
        inside = self.runtime.about.args.get("conf")
        inside = inside if isinstance(inside, (int, float)) else INSIDE_CONF
        conf = settings.conf if settings.mode != "val" else settings.conf or VAL_CONF
        return conf is not None and conf < inside or bool({"iou", "max_det"} & settings.given)

    def _open(self, device: object, half: bool) -> Runtime:
        key = str(select_device(device)), half
        if self._opened is None or self._opened[0] != key:
            self._opened = key, open_exported(self.path, device, half, self._given_task)
        return self._opened[1]
