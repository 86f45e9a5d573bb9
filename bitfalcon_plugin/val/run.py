"""The verb val, from Settings to Metrics: find the data, validate, print the tables and fill the run folder.

File names and formats as in spec/interface.md 6.1 and 7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config.callbacks import Events
from ..config.errors import UserError
from ..config.files import write_text
from ..config.notes import print_note
from ..config.printable import say
from ..config.run_folder import new_run_dir
from ..config.settings import Settings
from ..data.dataset import Sample
from ..data.formats.dataset_yaml import DataSpec
from ..data.from_settings import class_names, class_numbers, find_data, legal_side, same_keypoints, scan_split
from ..data.loading.loader import USUAL_BATCH, Reading, ValLoader, workers_for
from ..models.detector import Detector
from ..models.inference.precision import evaluation_precision
from ..ops.nms import Suppression
from ..ops.tiles import Tiling
from ..predict.coco_json import is_coco
from ..predict.inference import Options
from ..predict.tiled import overlap_note
from ..predict.writer import write_files
from ..tasks import task_of
from ..tasks.confusion import ConfusionMatrix
from ..tasks.metrics import TaskMetrics
from .loop import Hooks, Validation, ValOptions, progress, validate
from .mistakes import find_mistakes
from .pictures import BATCHES, Pictures
from .tiled import TileLoader
from .worst import worst_images

LAST_FILE = "worst.csv"  # of a measurement; a training run without it lacks its final measurement


@dataclass
class Validator:
    """A validation under way: the argument of callbacks of its events. metrics: None before on_val_end."""

    args: Settings
    save_dir: Path
    dataloader: ValLoader
    device: torch.device
    model: Detector
    metrics: TaskMetrics | None = None

    @property
    def names(self) -> dict[int, str]:
        """Class index to name."""
        return self.model.names

    @property
    def nc(self) -> int:
        """The number of classes."""
        return len(self.model.names)

    @property
    def speed(self) -> dict[str, float]:
        """Milliseconds an image, by stage; empty before on_val_end."""
        return self.metrics.speed if self.metrics else {}

    @property
    def confusion_matrix(self) -> ConfusionMatrix | None:
        """The confusion matrix; None before on_val_end."""
        return self.metrics.confusion_matrix if self.metrics else None


@dataclass(frozen=True)
class Share:
    """The share of the samples that this process validates: that of process `rank` of `size`.

    gather: as in Hooks.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[list], list] = list


@dataclass(frozen=True)
class Split:
    """A split as a model is measured on it. settings: those of val, checked against the data. samples: with the classes
    of the model. single: as in ValOptions. max_objects: the most labels of one image, 0 where there are none.
    """

    data: DataSpec
    settings: Settings
    samples: Sequence[Sample]
    single: bool
    max_objects: int


def find_split(model: Detector, settings: Settings) -> Split:
    """Read the split of the data that the settings name, and print what it holds.

    Raises UserError where the classes of model and data differ, and for a split that is missing or, without save_json,
    has no labels.
    """
    task = task_of(model)
    data, settings = find_data(task.effective(settings), task.data)
    single = settings.single_cls and model.nc > 1  # all classes of the model count as one
    numbers = {} if single else class_numbers(model.names, class_names(settings, data), data, task.data)
    same_keypoints(getattr(model, "keypoints", None), data)
    settings = counted_batch(legal_side(settings, model.multiple))
    if in_tiles(settings) and settings.letterbox_ap:
        print_note(f"letterbox_ap=True has no effect with tile={settings.tile}: tiles are letterboxed, images are not.")
    samples = _renumbered(scan_split(data, settings.split, settings, task.data).samples, numbers)
    max_objects = max(len(sample.labels) for sample in samples)
    if not max_objects and not settings.save_json:
        classes = "" if settings.classes is None else f" of classes={settings.classes}"
        raise UserError(
            f"Split '{settings.split}' of '{data.path}' has no label{classes}: there is nothing to measure against. "
            "Give a split with labels, or save_json=True for predictions.json alone."
        )
    return Split(data, _raise_max_det(settings, max_objects, task.counted_best), samples, single, max_objects)


def run_val(model: Detector, settings: Settings, events: Events | None = None) -> TaskMetrics:
    """Validate a model, folded and on its device, on a split of the data; prints tables, and writes files.

    The settings plots, save_json and save_txt say which files. Raises UserError as `find_split` does. With save_json a
    split without labels, like that of a contest, gives predictions.json, and numbers that are nan or 0.
    """
    print_note(*task_of(model).unused(settings), *overlap_note(settings))
    split = find_split(model, settings)
    settings, samples = split.settings, split.samples
    with _run_dir(settings) as folder:
        names = {0: "item"} if split.single else model.names
        pictures = Pictures(folder or Path(), names, settings.plots)
        validate_split = validate_and_report if split.max_objects else validate_samples
        options = {"folder": folder, "pictures": pictures, "events": events, "single": split.single}
        validator, found = validate_split(model, samples, settings, **options)
        if folder is not None:
            coco = not split.single and is_coco(split.data, settings.split)
            write_files(folder, found.samples, found.detections, names, settings, coco=coco)
            say(f"Results saved to {folder}")
    return validator.metrics


def _renumbered(samples: Sequence[Sample], numbers: Mapping[int, int]) -> Sequence[Sample]:
    """Return samples whose classes have other numbers: class of the dataset -> class of the model."""
    if all(index == number for index, number in numbers.items()):
        return samples
    table = torch.zeros(max(numbers) + 1, dtype=torch.int64)
    for index, number in numbers.items():
        table[index] = number
    return [
        replace(
            each,
            labels=replace(each.labels, classes=table[each.labels.classes]),
            truth=each.truth and each.truth.renumbered(numbers),
        )
        for each in samples
    ]


def validate_and_report(
    model: Detector,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    folder: Path | None,
    pictures: Pictures,
    events: Events | None = None,
    single: bool = False,
    share: Share = Share(),
    named: Collection[int] = (),
) -> tuple[Validator, Validation]:
    """Validate as `validate_samples` does, print tables and speed, and write pictures and worst.csv into `folder`.

    The process of rank 0 writes. With verbose the table has every class, and the worst images are printed.
    """
    options = {"folder": folder, "pictures": pictures, "events": events, "single": single, "share": share}
    validator, found = validate_samples(model, samples, settings, **options, named=named)
    metrics, samples, detections = validator.metrics, found.samples, found.detections
    if detections.probabilities is None:
        worst = worst_images(samples, detections, metrics.names, conf=metrics.best_conf)
    else:
        worst = find_mistakes(samples, detections, metrics.names)
    say(metrics.table(settings.verbose))
    if settings.verbose:
        say(worst.table())
    say("Speed an image: " + ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in metrics.speed.items()))
    if folder is not None and share.rank == 0:
        pictures.worst(worst)
        pictures.finish(metrics)
        write_text(folder / LAST_FILE, worst.to_csv())
    return validator, found


def validate_samples(
    model: Detector,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    folder: Path | None = None,
    pictures: Pictures | None = None,
    events: Events | None = None,
    single: bool = False,
    share: Share = Share(),
    named: Collection[int] = (),
) -> tuple[Validator, Validation]:
    """Validate a model on samples; returns the Validator with its Metrics, and what `validate` gives.

    single: as in ValOptions. share: other processes validate the other samples. events: get the Validator. named: the
    samples that the run has named already as images that cannot be read.
    """
    events = events or Events()
    options = options_of(model, settings, single)
    loader = (_tile_loader if in_tiles(settings) else loader_of)(model, samples, settings, share)
    loader.bad.named.update(named)
    validator = Validator(settings, folder, loader, loader.device, model)

    def notify(event: str) -> None:
        if event != "on_val_end":  # fired below, when the validator has its metrics
            events.fire(event, validator)

    watch = None if pictures is None else pictures.watch(samples, loader.fits)
    hooks = Hooks(progress("val", share.rank == 0), notify, watch, BATCHES, share.gather)
    validation = validate(model, samples, loader, options, task=task_of(model), hooks=hooks)
    validator.metrics = replace(validation.metrics, save_dir=folder)
    events.fire("on_val_end", validator)
    return validator, validation


def loader_of(model: Detector, samples: Sequence[Sample], settings: Settings, share: Share) -> ValLoader:
    device = next(model.parameters()).device
    rect = settings.rect if settings.mode == "val" and "rect" in settings.given else True
    rule = settings.on_bad_image
    reading = Reading(device, workers_for(device, settings), rank=share.rank, world=share.size, on_bad_image=rule)
    sizes = {"imgsz": settings.imgsz, "batch": settings.batch, "multiple": model.multiple}
    return task_of(model).data.val_loader(samples, reading, settings, rect=rect and not model.fixed, **sizes)


def in_tiles(settings: Settings) -> bool:
    """Whether images are cut into tiles: where tile= is given to val itself, not in a validation of another verb."""
    return settings.tile is not None and settings.mode == "val"


def _tile_loader(model: Detector, samples: Sequence[Sample], settings: Settings, share: Share) -> TileLoader:
    tiling = Tiling(settings.tile, settings.overlap)
    batch = int(settings.batch) if "batch" in settings.given else None
    options = Options(settings.imgsz, batch=batch, tiling=tiling)
    return TileLoader(samples, options, tiling, lambda part: loader_of(model, part, settings, share))


def options_of(model: Detector, settings: Settings, single: bool) -> ValOptions:
    task = task_of(model)
    rule = Suppression(
        conf=task.conf if settings.conf is None else settings.conf,
        iou=settings.iou,
        max_det=settings.max_det,
        multi_label=True,
        agnostic=settings.agnostic_nms or settings.single_cls,
        classes=_class_filter(settings, model),
    )
    autocast, augment, letterbox_ap = None, False, False
    if settings.mode == "val":  # at the end of a training half=, augment= and letterbox_ap= do not speak of validation
        autocast = None if model.exported else evaluation_precision(settings, next(model.parameters()).device, model)
        augment, letterbox_ap = settings.augment, settings.letterbox_ap and not in_tiles(settings)
    gains = None if model.exported or in_tiles(settings) else task.gains(settings)
    return ValOptions(rule, gains, autocast, augment, single, letterbox_ap, task.loss_options(settings, model))


def counted_batch(settings: Settings) -> Settings:
    """Return the settings with batch= as a number of images; prints a note where it was no number of images."""
    if settings.batch >= 1:
        return settings
    problem = "an automatic batch size is supported for training only"
    print_note(f"batch={settings.batch:g}: {problem}; using {USUAL_BATCH}.")
    return settings.replace(batch=USUAL_BATCH)


def _raise_max_det(settings: Settings, max_objects: int, counted: int | None) -> Settings:
    """Return settings with max_det at least `max_objects`, the most labels of one image, unless max_det is given.

    counted: detections of a class and image that AP goes by, best first; None for all.
    """
    labels = f"an image has {max_objects} labels"
    if counted is not None and max_objects > counted:
        print_note(f"{labels}; AP and AR count the {counted} best detections of a class and image.")
    if max_objects <= settings.max_det:
        return settings
    if "max_det" in settings.given:
        print_note(f"{labels}; with max_det={settings.max_det} not all of them can be found.")
        return settings
    say(f"max_det={max_objects}: so many labels has one image")
    return settings.replace(max_det=max_objects)


def _class_filter(settings: Settings, model: Detector) -> list[int] | None:
    """The classes of the model that count. A model of one class may measure several classes of the data as one."""
    if settings.classes is None or model.nc == 1:
        return None
    return [settings.classes] if isinstance(settings.classes, int) else list(settings.classes)


@contextlib.contextmanager
def _run_dir(settings: Settings) -> Iterator[Path | None]:
    """Give a new run folder, or None where nothing is to be written. An error leaves no empty folder."""
    if not (settings.plots or settings.save_json or settings.save_txt):
        yield None
        return
    folder = new_run_dir("val", settings.project, settings.name, settings.exist_ok, settings.task)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise
