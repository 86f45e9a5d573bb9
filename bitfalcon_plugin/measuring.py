"""What `val` does, from Settings to Metrics: finds the data, measures, prints the tables and fills the run folder.

File names and formats as in spec/interface.md 6.1 and 7.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .config import Settings
from .data.dataset import Sample
from .data.loader import ValLoader
from .data.spec import DataSpec
from .engines.interface import Engine
from .errors import UserError
from .events import Events
from .files import atomic, new_run_dir, write_text
from .inputs import class_names, find_data, legal_side, scan_split
from .model import Detector
from .predict import detect
from .quick import half_type
from .training.distributed import World
from .training.loop import progress
from .training.memory import USUAL
from .training.pictures import Pictures
from .training.setup import gains_of, workers_for
from .training.trainer import Validator
from .validate import DEFAULT_CONF, Metrics, validate
from .worst import Worst, worst_images

COUNTED = 100  # detections of a class and image that COCO's numbers go by, best first
# The ids that COCO's annotations give to its 80 classes.
COCO_IDS = (*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83), *range(84, 91))
COCO_LISTS = ("train2017", "val2017", "test2017", "test-dev2017")


def run_val(model: Detector, settings: Settings, events: Events | None = None) -> Metrics:
    """Measure a model (folded, on its device) on a split of the data; prints, and writes what plots, save_json and save_txt ask for.

    Raises UserError where the classes of model and data differ, and for a split that is not there or has no labels; with
    save_json a split without labels (the one of a contest) gives its predictions.json, and numbers that are nan or 0.
    """
    data, settings = find_data(settings)
    single = settings.single_cls and model.nc > 1  # all that the model finds is one class
    if not single:
        same_classes(model.names, class_names(settings, data), data)
    settings = legal_side(settings, model)
    settings = counted_batch(settings)
    samples = scan_split(data, settings.split, settings).samples
    most = max(len(sample.classes) for sample in samples)
    if not most and not settings.save_json:
        kept = "" if settings.classes is None else f" of classes={settings.classes}"
        raise UserError(f"Split '{settings.split}' of '{data.path}' has no label{kept}: there is nothing to measure against. Give a split "
                        "with labels, or save_json=True for predictions.json alone.")
    settings = _enough_boxes(settings, most)
    names = {0: "item"} if single else model.names
    with _run_dir(settings) as folder:
        pictures = Pictures(folder or Path(), names, settings.plots, _note, board=False)
        validator, detections = measure(model, samples, settings, next(model.parameters()).device, folder=folder, pictures=pictures,
                                        events=events, single=single)
        if most:
            worst = worst_images(samples, detections, names, conf=validator.metrics.best_conf)
            report(validator.metrics, worst, settings)
            if folder is not None:
                finish(folder, validator.metrics, worst, pictures)
        if folder is not None:
            write_files(folder, samples, detections, settings, coco=not single and is_coco(data, settings.split))
            print(f"Results saved to {folder}")
    return validator.metrics


def measure(model: Detector, samples: Sequence[Sample], settings: Settings, device: torch.device, *, folder: Path | None,
            pictures: Pictures, events: Events | None = None, world: World | None = None,
            single: bool = False) -> tuple[Validator, np.ndarray]:
    """Measure a model on samples; returns the Validator, with its Metrics, and all detections as `coco_metrics` takes them.

    Several processes (world) share the samples, and all get the same. single: as in `validate`. events get the Validator.
    """
    world, events = world or World(), events or Events()
    rect = settings.rect if settings.mode == "val" and "rect" in settings.given else True
    exported = isinstance(model, Engine)
    rect = rect and not (exported and model.fixed)
    loader = ValLoader(samples, imgsz=settings.imgsz, batch=settings.batch, stride=model.multiple, device=device, rect=rect,
                       workers=workers_for(device, settings), rank=world.rank, world=world.size)
    validator = Validator(settings, folder, loader, device, model)
    kept: list[np.ndarray] = []

    def notify(event: str) -> None:
        if event != "on_val_end":  # its functions want the numbers
            events.fire(event, validator)

    validator.metrics = validate(
        model, samples, loader, conf=DEFAULT_CONF if settings.conf is None else settings.conf, iou=settings.iou,
        max_det=settings.max_det, agnostic=settings.agnostic_nms or settings.single_cls, gains=None if exported else gains_of(settings),
        autocast=_half(settings, device, model) if settings.mode == "val" and not exported else None, progress=progress("val", world.main), notify=notify,
        watch=pictures.watch(samples, loader.fits), gather=world.gather, save_dir=folder, single=single, keep=kept.append,
        classes=_classes(settings, model), looks=partial(detect, augment=True) if settings.augment and settings.mode == "val" else None)
    events.fire("on_val_end", validator)
    return validator, kept[0]


def report(metrics: Metrics, worst: Worst, settings: Settings) -> None:
    """Print the tables and the speed; with verbose every class and the worst images."""
    print(metrics.table(settings.verbose))
    if settings.verbose:
        print(worst.table())
    print("Speed an image: " + ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in metrics.speed.items()))


def finish(folder: Path, metrics: Metrics, worst: Worst, pictures: Pictures) -> None:
    """Write worst.csv, and draw the worst images, the curves and the confusion matrices."""
    write_text(folder / "worst.csv", worst.to_csv())
    pictures.worst(worst)
    pictures.finish(metrics)


def write_files(folder: Path, samples: Sequence[Sample], detections: np.ndarray, settings: Settings, *, coco: bool) -> None:
    """Write predictions.json (save_json) and labels/*.txt (save_txt, save_conf) into the run folder.

    detections (n, 7): image index, x, y, w, h in original pixels, score, class. coco: give the classes COCO's own ids, 1 to
    90, instead of index + 1.
    """
    detections = detections[np.argsort(detections[:, 0], kind="stable")]
    if settings.save_json:
        _write_json(folder / "predictions.json", samples, detections, coco)
        print(f"predictions.json: {len(detections)} detections, category_id " + ("as in COCO's annotations" if coco else "is the class + 1"))
    if settings.save_txt:
        _write_txt(folder / "labels", samples, detections, settings.save_conf)


def is_coco(data: DataSpec, split: str) -> bool:
    """Whether a split is one of COCO 2017: 80 classes, and lists or folders of COCO's names below something called coco."""
    paths = [Path(entry) for entry in data.splits.get(split, ())]
    return bool(paths) and data.nc == len(COCO_IDS) and all(
        "coco" in str(path).lower() and path.stem in COCO_LISTS and path.suffix in ("", ".txt") for path in paths)


def image_ids(samples: Sequence[Sample]) -> list[int | str]:
    """The image_id of each sample: its stem, as an integer where it is a number; with its folders where stems occur twice."""
    found = [_number(sample.image.stem) for sample in samples]
    counts = Counter(found)
    if len(counts) == len(found):
        return found
    common = Path(os.path.commonpath([sample.image.parent for sample in samples]))
    _note("note: some images of different folders have the same name: the image_id of these is their path below "
          f"'{common}', without the suffix.")
    paths = [sample.image.relative_to(common).as_posix() for sample in samples]
    bare = [path[: len(path) - len(sample.image.suffix)] for path, sample in zip(paths, samples, strict=True)]
    taken = Counter(bare)  # x.jpg and x.png in one folder
    return [key if counts[key] == 1 else path if taken[short] > 1 else short
            for key, path, short in zip(found, paths, bare, strict=True)]


def _number(stem: str) -> int | str:
    return int(stem) if stem.isascii() and stem.isdecimal() else stem


def _write_json(target: Path, samples: Sequence[Sample], detections: np.ndarray, coco: bool) -> None:
    ids = image_ids(samples)
    with atomic(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for place, (image, x, y, w, h, score, cls) in enumerate(detections.tolist()):
            row = {"image_id": ids[int(image)], "category_id": COCO_IDS[int(cls)] if coco else int(cls) + 1,
                   "bbox": [round(side, 3) for side in (x, y, w, h)], "score": round(score, 5)}
            file.write((",\n" if place else "[") + json.dumps(row, ensure_ascii=False))
        file.write("]\n" if len(detections) else "[]\n")


def _write_txt(folder: Path, samples: Sequence[Sample], detections: np.ndarray, scores: bool) -> None:
    folder.mkdir(exist_ok=True)
    first = np.searchsorted(detections[:, 0], np.arange(len(samples) + 1))
    taken: set[str] = set()
    for index, sample in enumerate(samples):
        height, width = sample.size
        stem, count = sample.image.stem, 1
        while stem in taken:
            count += 1
            stem = f"{sample.image.stem}-{count}"
        taken.add(stem)
        lines = []
        for _, x, y, w, h, score, cls in detections[first[index]:first[index + 1]].tolist():
            numbers = int(cls), (x + w / 2) / width, (y + h / 2) / height, w / width, h / height, *([score] if scores else [])
            lines.append(" ".join(f"{number:g}" for number in numbers) + "\n")
        if lines:
            write_text(folder / f"{stem}.txt", "".join(lines))


def same_classes(known: Mapping[int, str], names: Mapping[int, str], data: DataSpec) -> None:
    """UserError where a model (classes `known`) and data have another number of classes, or the same in another order; a note for other words."""
    if len(names) != len(known):
        raise UserError(f"The model knows {len(known)} classes ({', '.join(known.values())}), {data.path} has {len(names)} "
                        f"({', '.join(names.values())}). Give the data the model was trained for.")
    if names != known:
        if sorted(names.values()) == sorted(known.values()):
            raise UserError(f"{data.path} has the model's classes in another order ({', '.join(names.values())}; the model: "
                            f"{', '.join(known.values())}). Put the names of the data in the model's order.")
        _note(f"note: the model calls its classes {', '.join(known.values())}")


def counted_batch(settings: Settings) -> Settings:
    """The settings with batch= as a number of images, which is searched for in training only; a note where it was none."""
    if settings.batch >= 1:
        return settings
    _note(f"note: batch={settings.batch:g}: what fits is searched for training only; using {USUAL}.")
    return settings.replace(batch=USUAL)


def _enough_boxes(settings: Settings, most: int) -> Settings:
    # most: labels of the image that has most of them
    if most > COUNTED:
        _note(f"note: an image has {most} labels; AP and AR count the {COUNTED} best detections of a class and image.")
    if most <= settings.max_det:
        return settings
    if "max_det" in settings.given:
        _note(f"note: an image has {most} labels; with max_det={settings.max_det} not all of them can be found.")
        return settings
    print(f"max_det={most}: so many labels has one image")
    return settings.replace(max_det=most)


def _classes(settings: Settings, model: Detector) -> list[int] | None:
    # Which classes of the model count. A model of one class may measure several of the data's as one.
    if settings.classes is None or model.nc == 1:
        return None
    return [settings.classes] if isinstance(settings.classes, int) else list(settings.classes)


def _half(settings: Settings, device: torch.device, model: Detector | None = None) -> torch.dtype | None:
    """What autocast computes in: amp names the kind where it is a word, half alone means the device's own; None for float32.

    Weights that are of 16 bits already (see quick.prepared) need none on a CPU.
    """
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
    by_name = isinstance(settings.amp, str) and "amp" in settings.given
    if by_name:
        wanted = named[settings.amp]
    else:
        wanted = (half_type(device)[0] or torch.float16) if settings.half else None
    if device.type == "cpu" and wanted is torch.bfloat16 and model is not None and next(model.parameters()).dtype is wanted:
        return None
    if wanted is None or device.type == "cuda" and (wanted is torch.float16 or torch.cuda.is_bf16_supported()):
        return wanted
    if device.type == "cpu" and wanted is torch.bfloat16:  # asked for by name: a CPU with the instructions gains, any CPU can
        return wanted
    if by_name:
        _note(f"note: amp={settings.amp}: {device.type} does not compute well in this type; measuring in float32"
              + (" (amp=bf16 measures in bfloat16)." if device.type == "cpu" else "."))
    else:
        _note(f"note: half=True: {half_type(device)[1]}" + (" (float32; amp=bf16 measures in bfloat16)." if device.type == "cpu" else "."))
    return None


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


def _note(text: str) -> None:
    print(text, file=sys.stderr)
