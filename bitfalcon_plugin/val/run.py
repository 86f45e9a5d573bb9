"""What `val` does, from Settings to Metrics: finds the data, measures, prints the tables and fills the run folder.

File names and formats as in spec/interface.md 6.1 and 7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config.callbacks import Events
from ..config.errors import UserError
from ..config.files import new_run_dir, write_text
from ..config.notes import print_note
from ..config.settings import Settings
from ..data.dataset import Sample
from ..data.from_settings import class_names, find_data, legal_side, same_classes, scan_split
from ..data.loading.loader import USUAL_BATCH as USUAL
from ..data.loading.loader import Reading, ValLoader, workers_for
from ..models.detector import Detector
from ..models.inference.precision import evaluation_precision
from ..ops.instances import Instances
from ..ops.nms import Suppression
from ..predict.coco_json import is_coco
from ..predict.writer import write_files
from ..tasks import task_of
from ..tasks.coco import coco_rows
from ..tasks.metrics import Metrics
from .loop import DEFAULT_CONF, Hooks, progress, validate
from .pictures import Pictures
from .worst import worst_images

COUNTED = 100  # detections of a class and image that COCO's numbers go by, best first


def run_val(model: Detector, settings: Settings, events: Events | None = None) -> Metrics:
    """Measure a model (folded, on its device) on a split of the data; prints, and writes what plots, save_json and save_txt ask for.

    Raises UserError where the classes of model and data differ, and for a split that is not there or has no labels; with
    save_json a split without labels (the one of a contest) gives its predictions.json, and numbers that are nan or 0.
    """
    data, settings = find_data(settings)
    single = settings.single_cls and model.nc > 1  # all that the model finds is one class
    if not single:
        same_classes(model.names, class_names(settings, data), data)
    settings = legal_side(settings, model.multiple)
    settings = counted_batch(settings)
    samples = scan_split(data, settings.split, settings, task_of(model).read_row).samples
    most = max(len(sample.labels) for sample in samples)
    if not most and not settings.save_json:
        kept = "" if settings.classes is None else f" of classes={settings.classes}"
        raise UserError(
            f"Split '{settings.split}' of '{data.path}' has no label{kept}: there is nothing to measure against. Give a split "
            "with labels, or save_json=True for predictions.json alone."
        )
    settings = _enough_boxes(settings, most)
    names = {0: "item"} if single else model.names
    with _run_dir(settings) as folder:
        pictures = Pictures(folder or Path(), names, settings.plots, board=False)
        evaluate = evaluate_and_report if most else measure
        validator, detections = evaluate(
            model, samples, settings, folder=folder, pictures=pictures, events=events, single=single
        )
        if folder is not None:
            write_files(
                folder, samples, coco_rows(detections), settings, coco=not single and is_coco(data, settings.split)
            )
            print(f"Results saved to {folder}")
    return validator.metrics


def evaluate_and_report(
    model: Detector,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    folder: Path | None,
    pictures: Pictures,
    **options,
) -> tuple[Validator, Instances]:
    """Measure a model as `measure` does, print the tables and the speed, and write worst.csv and the pictures into `folder`.

    options: further arguments of `measure`. The process of rank 0 writes. With verbose the table has every class, and the
    worst images are printed.
    """
    validator, detections = measure(model, samples, settings, folder=folder, pictures=pictures, **options)
    metrics = validator.metrics
    names = {0: "item"} if options.get("single") else model.names
    worst = worst_images(samples, detections, names, conf=metrics.best_conf)
    print(metrics.table(settings.verbose))
    if settings.verbose:
        print(worst.table())
    print("Speed an image: " + ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in metrics.speed.items()))
    if folder is not None and options.get("rank", 0) == 0:
        write_text(folder / "worst.csv", worst.to_csv())
        pictures.worst(worst)
        pictures.finish(metrics)
    return validator, detections


def measure(
    model: Detector,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    folder: Path | None,
    pictures: Pictures,
    events: Events | None = None,
    single: bool = False,
    rank: int = 0,
    size: int = 1,
    gather: Callable[[list], list] = list,
) -> tuple[Validator, Instances]:
    """Measure a model on samples; returns the Validator, with its Metrics, and all detections (see `validate`).

    single, gather: as in `validate`. rank, size: this process measures its share of the samples; with `gather` all processes get the same
    Metrics. events get the Validator.
    """
    events = events or Events()
    device = next(model.parameters()).device
    rect = settings.rect if settings.mode == "val" and "rect" in settings.given else True
    rect = rect and not model.fixed
    reading = Reading(device, workers_for(device, settings), rank=rank, world=size)
    sizes = {"imgsz": settings.imgsz, "batch": settings.batch, "multiple": model.multiple}
    loader = ValLoader(samples, reading, rect=rect, **sizes)
    validator = Validator(settings, folder, loader, device, model)

    def notify(event: str) -> None:
        if event != "on_val_end":  # its functions want the numbers
            events.fire(event, validator)

    measuring = settings.mode == "val"  # at the end of a training run its own settings mean something else
    task = task_of(model)
    rule = Suppression(
        conf=DEFAULT_CONF if settings.conf is None else settings.conf,
        iou=settings.iou,
        max_det=settings.max_det,
        multi_label=True,
        agnostic=settings.agnostic_nms or settings.single_cls,
        classes=_classes(settings, model),
    )
    validation = validate(
        model,
        samples,
        loader,
        rule,
        task=task,
        gains=None if model.exported else task.gains(settings),
        autocast=evaluation_precision(settings, device, model) if measuring and not model.exported else None,
        augment=measuring and settings.augment,
        single=single,
        hooks=Hooks(progress("val", rank == 0), notify, pictures.watch(samples, loader.fits), gather),
    )
    validator.metrics = replace(validation.metrics, save_dir=folder)
    events.fire("on_val_end", validator)
    return validator, validation.detections


def counted_batch(settings: Settings) -> Settings:
    """The settings with batch= as a number of images, which is searched for in training only; a note where it was none."""
    if settings.batch >= 1:
        return settings
    print_note(f"batch={settings.batch:g}: what fits is searched for training only; using {USUAL}.")
    return settings.replace(batch=USUAL)


def _enough_boxes(settings: Settings, most: int) -> Settings:
    # most: labels of the image that has most of them
    if most > COUNTED:
        print_note(f"an image has {most} labels; AP and AR count the {COUNTED} best detections of a class and image.")
    if most <= settings.max_det:
        return settings
    if "max_det" in settings.given:
        print_note(f"an image has {most} labels; with max_det={settings.max_det} not all of them can be found.")
        return settings
    print(f"max_det={most}: so many labels has one image")
    return settings.replace(max_det=most)


def _classes(settings: Settings, model: Detector) -> list[int] | None:
    # Which classes of the model count. A model of one class may measure several of the data's as one.
    if settings.classes is None or model.nc == 1:
        return None
    return [settings.classes] if isinstance(settings.classes, int) else list(settings.classes)


@contextlib.contextmanager
def _run_dir(settings: Settings) -> Iterator[Path | None]:
    # None where nothing is to be written. What fails leaves no empty folder.
    if not (settings.plots or settings.save_json or settings.save_txt):
        yield None
        return
    folder = new_run_dir("val", settings.project, settings.name, settings.exist_ok)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


@dataclass
class Validator:
    """A validation under way. Callbacks of its events get this object."""

    args: Settings
    save_dir: Path
    dataloader: ValLoader
    device: torch.device
    model: Detector
    metrics: Metrics | None = None  # from on_val_end on
