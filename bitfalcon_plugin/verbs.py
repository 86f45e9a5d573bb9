"""What each verb does, from Settings to its result: finds data and weights, runs, and says what a person wants to know."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from .checkpoint import Checkpoint, load
from .config import Settings, load_settings
from .data.dataset import Sample, Scan, scan
from .data.loader import ValLoader
from .data.spec import DataSpec, load_data
from .devices import select_device
from .drawing import contact_sheet
from .errors import UserError
from .foreign import load_any
from .files import atomic, new_run_dir
from .graph import Graph
from .model import Detector, Summary, graph_of, read_graph, summary
from .predict import Skipped, list_sources
from .predict import predict as predict_images
from .results import Results
from .transfer import class_width, transfer
from .training.loop import Run, gains_of, progress, workers_for
from .training.loop import train as train_loop
from .validate import Metrics, validate

DEFAULT_MODEL, DEFAULT_DATA = "yolov12.yaml", "shapes.yaml"


def is_weights(model: str | Path) -> bool:
    """Whether `model` names a checkpoint rather than a graph."""
    return Path(model).suffix.lower() in (".pt", ".pth")


def given(settings: Settings) -> dict[str, object]:
    """The settings the user gave, as plain values."""
    return {key: value for key, value in settings.as_dict().items() if key in settings.given}


def graph_for(source: str, settings: Settings, data: DataSpec | None = None, single: bool = False) -> Graph:
    """The graph that `source` and the settings name, for the classes of `data`; says what was chosen."""
    names = {0: "item"} if single else data.names if data else None
    graph = read_graph(source, settings.model_scale or "", variant=settings.variant, nc=len(names) if names else None, names=names)
    for note in graph.notes:
        print(note)
    return graph


def run_train(settings: Settings, checkpoint: Checkpoint | None) -> tuple[Path, Metrics]:
    """Train a graph, or go on from a checkpoint; the path of the best weights and their Metrics."""
    resumed, resumed_folder = _resumed(settings)
    if resumed is not None:
        settings = load_settings({**{k: v for k, v in resumed.settings.items() if k != "save_dir"}, **given(settings)})
    device = select_device(settings.device)
    if checkpoint is None and resumed is None:  # a wrong graph is told before data are looked at or generated
        read_graph(settings.model or DEFAULT_MODEL, settings.model_scale or "", variant=settings.variant)
    data, settings = _data(settings)
    model, license = _model_to_train(settings, resumed or checkpoint, data)
    settings = _legal_side(settings, model)
    train_scan, val_scan = _scan(data, "train", settings), _scan(data, "val", settings)
    if settings.imgsz == model.multiple and len(train_scan.samples) % settings.batch == (0 if settings.batch == 1 else 1):
        raise UserError(f"imgsz={settings.imgsz} leaves one cell of a map, and one image a batch: nothing to normalise over. Give "
                        f"imgsz={2 * model.multiple} or another batch.")
    folder = resumed_folder or new_run_dir("train", settings.project, settings.name, settings.exist_ok)
    print(f"Training {model.graph.name} scale={model.graph.scale or 'none'}, {model.nc} classes, on {device}; results in {folder}")
    run = Run(model, settings, train_scan.samples, val_scan.samples, folder, device,
              license=license, epoch=resumed.epoch + 1 if resumed else 0,
              resumed=resumed.training if resumed else None)
    records = train_loop(run)
    best = load(records.best if settings.save else records.last)
    final = best.model().fuse().requires_grad_(False).to(device, memory_format=torch.channels_last)
    metrics = _measure(final, val_scan.samples, settings, device)
    _picture(final, val_scan.samples, settings, folder / "val_batch0_pred.jpg")
    print(f"Best weights: {records.best}\nResults: {folder}")
    return records.best, metrics


def _resumed(settings: Settings) -> tuple[Checkpoint, Path] | tuple[None, None]:
    # The interrupted run's checkpoint and its folder, wherever that lies now.
    if not settings.resume:
        return None, None
    path = settings.resume if isinstance(settings.resume, str) else settings.model
    if path is None or not is_weights(path):
        raise UserError("resume=True needs model=<run folder>/weights/last.pt; or give that path as resume= .")
    checkpoint = load(path)
    if checkpoint.training is None:
        raise UserError(f"'{path}' is of a finished run ({checkpoint.epoch + 1} epochs): nothing to resume. To train on, give it "
                        "as model= without resume.")
    return checkpoint, Path(path).resolve().parent.parent


def _data(settings: Settings) -> tuple[DataSpec, Settings]:
    if settings.data is None:
        data = load_data(DEFAULT_DATA)
        print(f"No data= is given: using the generated dataset 'shapes' in {data.root} (its data.yaml is an example to copy)")
    else:
        data = load_data(settings.data, allow_outside=settings.allow_outside)
    for note in data.notes:
        print(f"note: {note}", file=sys.stderr)
    brought = {key: value for key, value in data.settings.items() if key not in settings.given}
    if brought:
        print("Settings of this dataset, where none were given: " + ", ".join(f"{k}={v}" for k, v in brought.items()))
    # a path is kept whole, so that the run can be resumed and its weights validated from any folder
    settings = settings.replace(**brought, data=DEFAULT_DATA if settings.data is None else str(data.path.resolve()))
    if settings.batch < 1:
        print(f"note: batch={settings.batch} asks for a search that comes with a later version; using 16.", file=sys.stderr)
        settings = settings.replace(batch=16)
    if not isinstance(settings.imgsz, int):
        raise UserError(f"imgsz={settings.imgsz}: training and validation take one side, for example imgsz={max(settings.imgsz)}.")
    return data, settings


def _legal_side(settings: Settings, model: Detector) -> Settings:
    side = -(-settings.imgsz // model.multiple) * model.multiple
    if side != settings.imgsz:
        print(f"imgsz={settings.imgsz} is no multiple of {model.multiple}, which this model needs; using {side}")
    return settings.replace(imgsz=side)


def _scan(data: DataSpec, split: str, settings: Settings) -> Scan:
    found = scan(data, split, single_cls=settings.single_cls, classes=settings.classes,
                 fraction=settings.fraction if split == "train" and settings.mode == "train" else 1.0)
    print(f"{split:>9}: {len(found.samples)} images, {found.missing + found.empty} backgrounds, {found.unreadable} unreadable, "
          f"{sum(len(sample.boxes) for sample in found.samples)} boxes ({data.path})")
    for note in found.notes[:20]:
        print(f"note: {note}", file=sys.stderr)
    if len(found.notes) > 20:
        print(f"note: ... and {len(found.notes) - 20} more", file=sys.stderr)
    return found


def _model_to_train(settings: Settings, checkpoint: Checkpoint | None, data: DataSpec) -> tuple[Detector, str | None]:
    # The model, and the licence of the weights that it starts from.
    torch.manual_seed(settings.seed + 1)  # fresh weights are part of what a seed repeats
    names = {0: "item"} if settings.single_cls else data.names
    if checkpoint is not None:
        source, graph = settings.model, checkpoint.graph
        document = graph.document if dict(graph.names) == names else {**graph.document, "class_width": class_width(checkpoint)}
        model = Detector(graph_of(document, name=graph.name, named_scale=graph.scale, variant=graph.variant, nc=len(names),
                                  names=names))
    else:
        graph = graph_for(settings.model or DEFAULT_MODEL, settings, data, settings.single_cls)
        if not isinstance(settings.pretrained, str):
            return Detector(graph), None
        source, checkpoint = settings.pretrained, load_any(settings.pretrained)
        if checkpoint.graph.nc != graph.nc and len(checkpoint.graph.rows) == len(graph.rows):
            graph = graph_of({**graph.document, "class_width": class_width(checkpoint)}, name=graph.name, named_scale=graph.scale,
                             variant=graph.variant, nc=graph.nc, names=graph.names)
        model = Detector(graph)
    print(f"Weights of '{source}':\n{transfer(model, checkpoint, source)}")
    return model, checkpoint.license


def _measure(model: Detector, samples: tuple[Sample, ...], settings: Settings, device: torch.device) -> Metrics:
    loader = ValLoader(samples, imgsz=settings.imgsz, batch=settings.batch, stride=model.multiple, device=device,
                       workers=workers_for(device, settings))
    metrics = validate(model, samples, loader, conf=0.001 if settings.conf is None else settings.conf, iou=settings.iou,
                       max_det=settings.max_det, agnostic=settings.agnostic_nms or settings.single_cls,
                       gains=gains_of(settings), progress=progress("val"))
    print(metrics.table(settings.verbose))
    print("Speed an image: " + ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in metrics.speed.items()))
    return metrics


def _picture(model: Detector, samples: tuple[Sample, ...], settings: Settings, path: Path) -> None:
    if not settings.plots:
        return
    chosen = [sample.image for sample in samples[:: max(len(samples) // 12, 1)][:12]]
    found = list(predict_images(model, chosen, imgsz=settings.imgsz))
    with atomic(path) as temporary:
        contact_sheet([result.plot(pil=True) for result in found]).save(temporary, quality=92)
    print(f"Detections on {len(found)} validation images ({sum(map(len, found))} boxes above 0.25): {path}")


def run_val(model: Detector, settings: Settings) -> Metrics:
    """Measure a model on a split of the data."""
    data, settings = _data(settings)
    names = {0: "item"} if settings.single_cls else data.names
    if len(names) != model.nc:
        raise UserError(f"The model knows {model.nc} classes ({', '.join(model.names.values())}), {data.path} has {len(names)} "
                        f"({', '.join(names.values())}). Give the data the model was trained for.")
    if names != model.names:
        if sorted(names.values()) == sorted(model.names.values()):
            raise UserError(f"{data.path} has the model's classes in another order ({', '.join(names.values())}; the model: "
                            f"{', '.join(model.names.values())}). Put the names of the data in the model's order.")
        print(f"note: the model calls its classes {', '.join(model.names.values())}", file=sys.stderr)
    settings = _legal_side(settings, model)
    return _measure(model, _scan(data, settings.split, settings).samples, settings, next(model.parameters()).device)


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
