"""What each verb does, from Settings to its result: finds data and weights, runs, and says what a person wants to know."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from .config import Settings
from .data.dataset import Sample
from .data.loader import ValLoader
from .errors import UserError
from .files import atomic, new_run_dir
from .inputs import class_names, find_data, legal_side, scan_split
from .model import Detector, Summary, summary
from .predict import Skipped, list_sources
from .predict import predict as predict_images
from .results import Results
from .training.loop import progress
from .training.memory import USUAL
from .training.setup import gains_of, workers_for
from .validate import Metrics, validate


def _measure(model: Detector, samples: tuple[Sample, ...], settings: Settings, device: torch.device) -> Metrics:
    loader = ValLoader(samples, imgsz=settings.imgsz, batch=settings.batch, stride=model.multiple, device=device,
                       workers=workers_for(device, settings))
    metrics = validate(model, samples, loader, conf=0.001 if settings.conf is None else settings.conf, iou=settings.iou,
                       max_det=settings.max_det, agnostic=settings.agnostic_nms or settings.single_cls,
                       gains=gains_of(settings), progress=progress("val"))
    print(metrics.table(settings.verbose))
    print("Speed an image: " + ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in metrics.speed.items()))
    return metrics


def run_val(model: Detector, settings: Settings) -> Metrics:
    """Measure a model on a split of the data."""
    data, settings = find_data(settings)
    names = class_names(settings, data)
    if len(names) != model.nc:
        raise UserError(f"The model knows {model.nc} classes ({', '.join(model.names.values())}), {data.path} has {len(names)} "
                        f"({', '.join(names.values())}). Give the data the model was trained for.")
    if names != model.names:
        if sorted(names.values()) == sorted(model.names.values()):
            raise UserError(f"{data.path} has the model's classes in another order ({', '.join(names.values())}; the model: "
                            f"{', '.join(model.names.values())}). Put the names of the data in the model's order.")
        print(f"note: the model calls its classes {', '.join(model.names.values())}", file=sys.stderr)
    settings = legal_side(settings, model)
    if settings.batch < 1:
        print(f"note: batch={settings.batch:g}: what fits is searched for training only; using {USUAL}.", file=sys.stderr)
        settings = settings.replace(batch=USUAL)
    return _measure(model, scan_split(data, settings.split, settings).samples, settings, next(model.parameters()).device)


def run_predict(model: Detector, settings: Settings, source: object, verbose: bool) -> Iterator[Results]:
    """Yield the Results of a source; with settings.save write annotated images, with verbose print a line an image."""
    items, skipped = list_sources(source), Skipped()
    folder = None
    classes = None if settings.classes is None else [settings.classes] if isinstance(settings.classes, int) else settings.classes
    results = predict_images(model, items, imgsz=settings.imgsz, conf=0.25 if settings.conf is None else settings.conf,
                             iou=settings.iou, max_det=settings.max_det, batch=max(int(settings.batch), 1) if "batch" in settings.given else 1,
                             agnostic=settings.agnostic_nms, classes=classes, skipped=skipped)
    if unknown := [index for index in classes or () if index not in model.names]:
        raise UserError(f"classes={unknown}: the model knows 0 to {model.nc - 1}.")
    totals: dict[str, float] = {}
    taken: set[str] = set()
    for index, result in enumerate(results):
        if settings.save:
            folder = folder or new_run_dir("predict", settings.project, settings.name, settings.exist_ok)
            picture = result.plot(conf=settings.show_conf, labels=settings.show_labels, boxes=settings.show_boxes,
                                  line_width=settings.line_width, pil=True)
            with atomic(folder / f"{_free_stem(Path(result.path).stem, taken)}.jpg") as temporary:
                picture.save(temporary, quality=95)
        if verbose:
            height, width = result.input_shape
            print(f"image {index + len(skipped.reasons) + 1}/{len(items)} {result.path}: {height}x{width} {result.verbose()}"
                  f"{result.speed['inference']:.1f}ms")
        totals = {stage: totals.get(stage, 0.0) + ms for stage, ms in result.speed.items()}
        last = index + 1, result.input_shape
        yield result
    for reason in skipped.reasons:
        print(f"note: skipped {reason}", file=sys.stderr)
    if verbose and totals:
        count, shape = last
        speed = ", ".join(f"{ms / count:.1f}ms {stage}" for stage, ms in totals.items())
        print(f"Speed: {speed} per image at shape (1, 3, {shape[0]}, {shape[1]})")
    if folder is not None:
        print(f"Results saved to {folder}" + (f"; {len(skipped.reasons)} images could not be read" if skipped.reasons else ""))


def _free_stem(stem: str, taken: set[str]) -> str:
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}-{count}"
    taken.add(name)
    return name


def show_info(model: Detector, settings: Settings) -> Summary:
    """Print the rows and totals of a model."""
    imgsz = settings.imgsz if isinstance(settings.imgsz, int) else max(settings.imgsz)
    found = summary(model, imgsz)
    width = max(len(row[4]) for row in found.rows)
    print(f"{'':>5}{'from':>20}{'n':>4}{'params':>11}  {'module':<{width}}  arguments")
    for index, source, repeats, parameters, module, arguments in found.rows:
        origin = str(list(source)) if isinstance(source, tuple) else str(source)
        print(f"{index:>5}{origin:>20}{repeats:>4}{parameters:>11}  {module:<{width}}  {arguments}")
    print(f"{model.graph.name} scale={model.graph.scale or 'none'} summary: {found.layers} layers, {found.parameters:,} parameters, "
          f"{found.gradients:,} gradients, {found.gflops:.1f} GFLOPs at {imgsz}")
    return found
