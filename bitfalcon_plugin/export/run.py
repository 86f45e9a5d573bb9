"""What `export` does, from a Detector and Settings to a file that another program runs, proven equal to the network first.

Names, shapes and metadata as in spec/interface.md section 9.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.callbacks import Events
from ..config.devices import select_device
from ..config.errors import MissingFileError, UserError
from ..config.files import placed, size_of
from ..config.settings import Settings, live
from ..config.signals import ended_by_signals
from ..data.dataset import scan
from ..data.formats.dataset_yaml import load_data
from ..data.images import UnreadableImage, letterbox, read_image
from ..data.shapes import draw
from ..models.detector import Detector
from ..ops.letterbox import letterbox_fit
from ..predict.sources import list_sources
from .compare import Agreement, MismatchError, compare
from .formats import EXPORT_FORMATS, OPTIONS, find_format, require
from .metadata import Metadata
from .network import ExportedNetwork
from .nms import Suppression
from .open import open_exported
from .writers import WRITERS, ExportJob

COMPARED, CALIBRATED = 4, 100  # images for the comparison, and to find the ranges of int8
TAKES = frozenset(
    (
        "mode",
        "task",
        "model",
        "data",
        "source",
        "imgsz",
        "batch",
        "device",
        "format",
        "out",
        "allow_outside",
        "half",
        "int8",
        "dynamic",
        "nms",
        "opset",
        "simplify",
        "model_scale",
        "variant",
        "pretrained",
        "verbose",
        "debug",
    )
)
NO_RANGES = "int8=True needs data= (or source=): pictures as the model will see them, from which the ranges of its numbers are found"
INSIDE = frozenset(("conf", "iou", "max_det", "agnostic_nms"))  # of a suppression that is in the file


def run_export(
    model: Detector,
    settings: Settings,
    source: str,
    license: str | None = None,
    events: Events | None = None,
    remembered: bool = False,
    asked: Collection[str] | None = None,
) -> Path:
    """Write `model` in settings.format beside `source` (or to settings.out), compared with the network; returns the path.

    source: the file that the model is from; a graph's export goes into the working folder. license: of the weights. events:
    on_export_start and on_export_end get the settings. remembered: settings.data is the checkpoint's own, which may not be here.
    asked: the keys of this call, where settings.given has others beside. Prints what was written, how far it differs and what to run
    next. SIGTERM ends it as Ctrl-C does, as Stopped.

    Raises UserError for what the format cannot do and where nothing can be written, MismatchError where the file does not give what
    the network gives; nothing is left behind then.
    """
    format_, events = find_format(settings.format), events or Events()
    _refuse(format_, settings)
    device = select_device(settings.device)  # a name that cannot be is refused, though the CPU does the work
    require(format_, writing=True, options=[option for option in OPTIONS if getattr(settings, option)])
    _tell_unused(format_, settings, asked, remembered, device)
    events.fire("on_export_start", settings)
    target = _target(format_, settings, source)
    imgsz, batch = _shape(model, settings)
    network = copy.deepcopy(model).cpu().float().eval().requires_grad_(False).fuse()
    suppression = _suppression(settings) if settings.nms else None
    kind = "int8" if settings.int8 else "half" if settings.half else "float32"
    pictures, what = _pictures(settings, CALIBRATED if settings.int8 else COMPARED, remembered)
    images = [_letterboxed(picture, imgsz) for picture in pictures]
    job = ExportJob(
        network=ExportedNetwork(network, settings.half and format_ != "openvino", suppression, settings.dynamic),
        images=torch.cat(images * batch)[:batch],
        about=_about(model, settings, source, imgsz, batch, license),
        dynamic=settings.dynamic,
        opset=settings.opset,
        simplify=settings.simplify,
        half=settings.half,
        int8=settings.int8,
        calibration=tuple(images) if settings.int8 else (),
        stem=target.name.removesuffix(EXPORT_FORMATS[format_].suffix),
    )
    batches = list(_batches(images[:COMPARED], pictures, job))
    with ended_by_signals() as heed, _kept_if_equal(target, format_) as path:
        WRITERS[format_](job, path)
        found = compare(network, open_exported(path, "cpu"), batches, kind, suppression)
        if not found.count:  # nothing was above conf: then at least what is suppressed is compared
            bare = replace(
                job,
                network=ExportedNetwork(network, job.network.half_inside, None, settings.dynamic),
                about=replace(job.about, args={**job.about.args, "nms": False}),
            )
            with (
                tempfile.TemporaryDirectory() as folder,
                placed(Path(folder) / target.name, _is_folder(format_)) as other,
            ):
                WRITERS[format_](bare, other)
                found = compare(network, open_exported(other, "cpu"), batches, kind)
        heed()
    _tell(target, found, what, job, kind)
    events.fire("on_export_end", settings)
    return target


@contextlib.contextmanager
def _kept_if_equal(target: Path, format_: str) -> Iterator[Path]:
    try:
        with placed(target, _is_folder(format_)) as path:
            yield path
    except MismatchError as error:
        raise MismatchError(f"'{target}' was not kept: {error}. Try it in float32, or another format=.") from error


def _is_folder(format_: str) -> bool:
    return "." not in EXPORT_FORMATS[format_].suffix


def _refuse(format_: str, settings: Settings) -> None:
    # Options that the format does not take and that were given another value than the one that asks for nothing.
    taken = EXPORT_FORMATS[format_].options
    for option, default in OPTIONS.items():
        value = getattr(settings, option)
        if option in taken or value in (default, False, None) or option == "simplify":
            continue
        reason = EXPORT_FORMATS[format_].not_taken.get(option, f"it takes {', '.join(taken)}")
        raise UserError(f"{option}={value} is nothing for format={format_}: {reason}.")
    if settings.half and settings.int8:
        raise UserError("half=True and int8=True: give one of them.")
    if settings.int8 and settings.dynamic:
        raise UserError("int8=True and dynamic=True: ranges of 8-bit numbers are found for one size; give one of them.")


def _tell_unused(
    format_: str, settings: Settings, asked: Collection[str] | None, remembered: bool, device: torch.device
) -> None:
    # One note for the settings that were given another value than their own and change nothing here.
    taken = TAKES | (INSIDE if settings.nms else frozenset())
    taken -= {"simplify"} - set(EXPORT_FORMATS[format_].options)
    taken -= {"device"} if device.type != "cpu" else set()
    keys = settings.given if asked is None else settings.given & set(asked)
    if asked is None and remembered:
        keys -= {"single_cls"}  # may be the checkpoint's own
    if others := sorted(key for key in keys - taken if getattr(settings, key) != live()[key]["default"]):
        _note(
            f"without effect on an export: {', '.join(key + ' (needs nms=True)' * (key in INSIDE) for key in others)}"
        )


def _target(format_: str, settings: Settings, source: str) -> Path:
    suffix, origin = EXPORT_FORMATS[format_].suffix, Path(source)
    if settings.out is None:
        return (origin.parent if origin.suffix.lower() in (".pt", ".pth") else Path()) / f"{origin.stem}{suffix}"
    if not settings.out.rstrip("/\\").endswith(suffix):
        raise UserError(
            f"out={settings.out}: a name for format={format_} ends in {suffix}, for example out={origin.stem}{suffix} ."
        )
    if Path(settings.out).name == suffix:
        raise UserError(
            f"out={settings.out}: a suffix alone is no name; expected for example out={origin.stem}{suffix} ."
        )
    return Path(settings.out)


def _shape(model: Detector, settings: Settings) -> tuple[tuple[int, int], int]:
    sides = (settings.imgsz,) * 2 if isinstance(settings.imgsz, int) else tuple(settings.imgsz)
    imgsz = tuple(-(-side // model.multiple) * model.multiple for side in sides)
    if imgsz != sides:
        _note(
            f"imgsz={settings.imgsz} is no multiple of {model.multiple}, which this model needs; using {list(imgsz)}."
        )
    batch = settings.batch if "batch" in settings.given else 1
    if batch < 1:
        raise UserError(f"batch={batch:g}: an export has a whole number of images, 1 or more; dynamic=True takes any.")
    return imgsz, int(batch)


def _suppression(settings: Settings) -> Suppression:
    return Suppression(
        0.25 if settings.conf is None else settings.conf, settings.iou, settings.max_det, settings.agnostic_nms
    )


def _about(
    model: Detector, settings: Settings, source: str, imgsz: tuple[int, int], batch: int, license: str | None
) -> Metadata:
    args = {key: getattr(settings, key) for key in ("format", "dynamic", "half", "int8", "nms", "opset", "simplify")}
    if settings.nms:
        rule = _suppression(settings)
        args.update(conf=rule.conf, iou=rule.iou, max_det=rule.max_det, agnostic_nms=rule.agnostic)
    scale = f" {model.graph.scale}" if model.graph.scale else ""
    return Metadata(
        dict(model.names),
        model.multiple,
        imgsz,
        batch,
        {**args, "batch": batch, "nms": bool(settings.nms)},
        license,
        f"{Path(model.graph.name).stem}{scale}, {model.nc} classes, from {Path(source).name}",
        datetime.datetime.now().isoformat(timespec="seconds"),
    )


def _pictures(settings: Settings, count: int, remembered: bool) -> tuple[list[Tensor], str]:
    """Pictures (3, H, W) uint8 to compare on, at most `count`, and what they are: of source=, of data=, or drawn."""
    paths: list[Path] = []
    if settings.source is not None:
        paths = [item for item in list_sources(settings.source) if isinstance(item, Path)]
    elif settings.data is not None:
        try:
            data = load_data(settings.data, allow_outside=settings.allow_outside)
            split = (
                "train" if settings.int8 and "train" in data.splits else "val"
            )  # what is measured later has no part in the ranges
            paths = [sample.image for sample in scan(data, split).samples]
        except UserError as error:
            if not remembered or settings.int8 and not isinstance(error, MissingFileError):
                raise
            if settings.int8:
                raise UserError(
                    f"{NO_RANGES}; the weights were trained on data={settings.data}, which is not here."
                ) from error
    found = []
    for path in paths[:: max(len(paths) // count, 1)]:
        try:
            found.append(read_image(path))
        except UnreadableImage as error:
            _note(f"skipped {path}: {error}")
    if found:
        return found[:count], f"images of {settings.source or settings.data}"
    if settings.int8:
        raise UserError(f"{NO_RANGES}.")
    random = np.random.RandomState(0)
    return [torch.from_numpy(draw(random)[0]).permute(2, 0, 1) for _ in range(min(count, COMPARED))], "drawn shapes"


def _letterboxed(picture: Tensor, canvas: tuple[int, int]) -> Tensor:
    return letterbox(picture, letterbox_fit(tuple(picture.shape[1:]), canvas))[None].float() / 255  # (1, 3, H, W)


def _batches(images: list[Tensor], pictures: list[Tensor], job: ExportJob) -> Iterator[Tensor]:
    yield torch.cat(images)
    if not job.dynamic:
        return
    # Sizes of other proportions: the least there is, one that is tall, one that is wide, alone and several.
    multiple, (high, wide) = job.about.multiple, job.about.imgsz
    half = [max(side // 2 // multiple, 1) * multiple for side in (high, wide)]
    for count, canvas in (
        (1, (multiple, multiple)),
        (2, (half[0] + multiple, wide)),
        (1, (high, half[1])),
        (3, (multiple, 3 * multiple)),
    ):
        yield torch.cat([_letterboxed(picture, canvas) for picture in (pictures * count)[:count]])


def _tell(target: Path, found: Agreement, what: str, job: ExportJob, kind: str) -> None:
    high, wide = job.about.imgsz
    size = "any size and batch" if job.dynamic else f"{job.about.batch} x 3 x {high} x {wide}"
    print(
        f"wrote {target}: {size_of(target) / 1e6:.1f} MB, {kind}, {size}; licence of the weights: {job.about.license or 'not stated'}"
    )
    print(f"compared with the network on {what}: {found.describe()}")
    print(f"next: bitfalcon predict model={target} source=images/    or YOLO({str(target)!r})")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
