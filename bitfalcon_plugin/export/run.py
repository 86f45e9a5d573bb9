"""Run `export`: write a Detector as a file that another program runs, and compare that file with the network first.

Names, shapes and metadata follow spec/interface.md section 9.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ..config.callbacks import Events
from ..config.errors import UserError
from ..config.files import atomic_export, size_of
from ..config.notes import print_note
from ..config.printable import say
from ..config.settings import Settings
from ..config.signals import ended_by_signals
from ..models.detector import Detector, rows_named
from ..ops.letterbox import describe_letterbox
from ..tasks import task_of
from ..tasks.detect import predict_decoded
from .accuracy import Accuracy, measure_accuracy
from .agreement import Agreement, MismatchError
from .compare import compare, further_values
from .formats import EXPORT_FORMATS, OPTIONS, find_format, require
from .images import comparison_batches, load_pictures, network_input
from .input_limits import KEY, limits_for, read_limits
from .metadata import Metadata, describe_layout
from .network import ExportedNetwork
from .nms import Suppression
from .open import device_for, open_exported
from .options import check_options, input_shape, note_unused, target_path, writable_opset
from .rotated_nms import RotatedSuppression
from .seal import seal
from .writers import WRITERS, ExportJob

COMPARED = 4  # images of the comparison
CALIBRATED = 100  # images that the ranges of int8 are measured on


@dataclass(frozen=True)
class Export:
    """What an export wrote; a path wherever one is taken.

    path: the file or folder. agreement: how far it differs from the network, None for a file that was written
    unchecked. accuracy: of the network and of the file,
    None where no data= was given or val could not measure on it.
    """

    path: Path
    agreement: Agreement | None
    accuracy: Accuracy | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__


def folded_copy(model: Detector) -> Detector:
    """Return a copy of a model, float32, folded and on the CPU."""
    return copy.deepcopy(model).cpu().float().eval().requires_grad_(False).fuse()


def run_export(
    model: Detector,
    settings: Settings,
    source: str,
    license: str | None = None,
    events: Events | None = None,
    data_remembered: bool = False,
    given: Collection[str] | None = None,
) -> Export:
    """Write `model` in settings.format, compare the file with the network, and return where it is.

    The file lies beside `source`, the file that the model is from, or at settings.out; the export of a graph lies in
    the working folder. license: of the weights. events: on_export_start and on_export_end get the settings.
    data_remembered: settings.data is the checkpoint's own, which may be gone. given: the keys of this call, where
    settings.given has more. Where data= is among them, val measures the network and the file on it.

    Prints what was written, how far it differs, its accuracy and the next command. SIGTERM ends an export as Ctrl-C
    does, as Stopped.

    Raises UserError for what the format cannot do and where nothing can be written, and MismatchError where the file
    does not give what the network gives. Nothing is left behind then.
    """
    events, format_, task = events or Events(), find_format(settings.format), task_of(model)
    measured = "data" in (settings.given if given is None else given) and not data_remembered
    check_options(format_, settings, task)
    device = device_for(format_, settings.device)  # one that cannot be is refused, also where the CPU does the work
    require(format_, writing=True, options=[option for option in OPTIONS if getattr(settings, option)])
    note_unused(format_, settings, given, data_remembered, measured, on_cpu=device.type == "cpu")
    events.fire("on_export_start", settings)
    target = target_path(format_, settings, source)
    job, agreement, origin = write_checked(model, settings, target, source, license, data_remembered)
    _report(target, agreement, origin, job)
    accuracy = None
    if measured and (accuracy := measure_accuracy(folded_copy(model), target, job.metadata, settings, job.device)):
        say(accuracy.describe())
    if agreement is not None:
        say(f"next: bitfalcon predict model={target} source=images/    or YOLO({str(target)!r})")
    events.fire("on_export_end", settings)
    return Export(target, agreement, accuracy)


def write_checked(
    model: Detector,
    settings: Settings,
    target: Path,
    source: str,
    license: str | None = None,
    data_remembered: bool = False,
    maintained: bool = True,
) -> tuple[ExportJob, Agreement | None, str]:
    """Write `model` to `target` and compare the file with the network; the arguments are those of `run_export`.

    maintained: as of an ExportJob.

    Returns the job, how far the file differs (None where nothing here can run it) and on which pictures. Raises
    MismatchError, and leaves nothing, where it does not give what the network gives.
    """
    format_, task = find_format(settings.format), task_of(model)
    imgsz, batch = input_shape(model.multiple, settings)
    opset = writable_opset(settings.opset)
    network = folded_copy(model)
    pictures, origin = load_pictures(model, settings, CALIBRATED if settings.int8 else COMPARED, data_remembered)
    shown = partial(network_input, task=task, letterbox=settings.letterbox)
    images = [shown(picture, imgsz) for picture in pictures]
    with rows_named():
        further = further_values(network, predict_decoded(network, images[0]))
    metadata = _described(model, settings, source, imgsz, batch, license, opset, further)
    row = EXPORT_FORMATS[format_]
    half_inside = settings.half and not row.narrows
    size = imgsz if row.static and not settings.dynamic else None
    job = ExportJob(
        network=ExportedNetwork(network, half_inside, _suppression(model, settings), size),
        images=torch.cat(images * batch)[:batch],
        metadata=metadata,
        dynamic=settings.dynamic,
        opset=opset,
        simplify=settings.simplify,
        half=settings.half,
        int8=settings.int8,
        calibration=tuple(images) if settings.int8 else (),
        stem=target.name.removesuffix(row.suffix),
        maintained=maintained,
        device=device_for(format_, settings.device) if row.needs_gpu else torch.device("cpu"),
        workspace=settings.workspace,
    )
    batches = comparison_batches(pictures[:COMPARED], imgsz, model.multiple, settings.dynamic, shown)
    with ended_by_signals() as raise_if_signalled, _kept_if_equal(target, format_) as path:
        agreement = _write_and_compare(job, format_, path, network, batches)
        raise_if_signalled()
    seal(target)
    return job, agreement, origin


@contextlib.contextmanager
def _kept_if_equal(target: Path, format_: str) -> Iterator[Path]:
    """Yield the path to write; it becomes `target`, unless a MismatchError comes out of the block."""
    try:
        with atomic_export(target, EXPORT_FORMATS[format_].is_folder) as path:
            yield path
    except MismatchError as error:
        raise MismatchError(f"'{target}' was not kept: {error}. Try it in float32, or another format=.") from error


def _write_and_compare(
    job: ExportJob, format_: str, path: Path, network: Detector, batches: list[torch.Tensor]
) -> Agreement | None:
    """Write the job to `path`, run that file and compare it with the network; None where nothing here can run it.

    Where suppression leaves nothing on any image, the same job without suppression is written and compared instead.
    """
    WRITERS[format_](job, path)
    if not EXPORT_FORMATS[format_].is_run_here:
        return None
    suppression = job.network.suppression
    try:
        runtime = open_exported(path, job.device, written_now=True)
        agreement = compare(network, runtime, batches, job.precision, suppression)
    except (MismatchError, UserError) as error:
        if format_ != "onnx" or not job.maintained:
            raise
        print_note(f"the file of torch's maintained ONNX exporter is not kept: {error} The older one is tried.")
        return _write_and_compare(replace(job, maintained=False), format_, path, network, batches)
    if agreement.count:
        return agreement
    unsuppressed = replace(
        job,
        network=ExportedNetwork(network, job.network.half_inside),
        metadata=replace(job.metadata, args={**job.metadata.args, "nms": False}),
        maintained=False,  # by the exporter that writes suppression
    )
    is_folder = EXPORT_FORMATS[format_].is_folder
    with tempfile.TemporaryDirectory() as folder, atomic_export(Path(folder) / path.name, is_folder) as other:
        WRITERS[format_](unsuppressed, other)
        return compare(network, open_exported(other, job.device, written_now=True), batches, job.precision)


def _suppression(model: Detector, settings: Settings) -> Suppression | None:
    if not settings.nms:
        return None
    conf = 0.25 if settings.conf is None else settings.conf
    rule = RotatedSuppression if task_of(model).oriented else Suppression
    return rule(model.nc, conf, settings.iou, settings.max_det, settings.agnostic_nms)


def _described(
    model: Detector,
    settings: Settings,
    source: str,
    imgsz: tuple[int, int],
    batch: int,
    license: str | None,
    opset: int | None,
    further: Sequence[str],
) -> Metadata:
    """The metadata of the file: what is known of the model and how it is exported. further: of `further_values`."""
    task = task_of(model)
    args = {key: getattr(settings, key) for key in ("format", "dynamic", "half", "int8", "nms", "simplify")}
    args["opset"] = opset
    if settings.letterbox:
        args["letterbox"] = True
    row = EXPORT_FORMATS[find_format(settings.format)]
    if not row.is_run_here:
        args["unchecked"] = True
    if row.has_limits and settings.dynamic:
        args[KEY] = limits_for(model.multiple, imgsz, batch, COMPARED).shapes()
    if rule := _suppression(model, settings):
        args.update(conf=rule.conf, iou=rule.iou, max_det=rule.max_det, agnostic_nms=rule.agnostic)
    scale = f" {model.graph.scale}" if model.graph.scale else ""
    return Metadata(
        names=dict(model.names),
        multiple=model.multiple,
        imgsz=imgsz,
        batch=batch,
        args={**args, "batch": batch, "nms": bool(settings.nms)},
        license=license,
        description=f"{Path(model.graph.name).stem}{scale}, {model.nc} classes, from {Path(source).name}",
        date=datetime.datetime.now().isoformat(timespec="seconds"),
        task=model.task,
        stride=int(max(model.strides)),
        transform=describe_letterbox(imgsz) if settings.letterbox else task.transform(imgsz),
        layout=describe_layout(model.names, further, bool(settings.nms), task),
        keypoints=model.keypoints if task.keypoints else None,
    )


def _report(target: Path, agreement: Agreement | None, origin: str, job: ExportJob) -> None:
    """Print the file with its size and licence, and the comparison."""
    metadata = job.metadata
    height, width = metadata.imgsz
    shape = "any size and batch" if job.dynamic else f"{metadata.batch} x 3 x {height} x {width}"
    if limits := read_limits(metadata.args):
        shape = limits.describe()
    license = metadata.license or "not stated"
    say(f"wrote {target}: {size_of(target) / 1e6:.1f} MB, {job.precision}, {shape}; licence of the weights: {license}")
    if agreement is None:
        say("unchecked: nothing on this machine runs it, so it was not compared with the network")
    else:
        say(f"compared with the network on {origin}: {agreement.describe()}")
