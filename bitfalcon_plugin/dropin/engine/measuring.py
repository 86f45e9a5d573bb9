"""A validation batch by batch through the methods of a script's validator, in the order of spec/dropin.md section 7."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...config.files import write_text
from ...config.run_folder import new_run_dir
from ...config.settings import Settings
from ...data.augmentation.augment import Batch
from ...data.dataset import Sample
from ...data.from_settings import class_names, find_data, legal_side, same_classes, scan_split
from ...data.loading.loader import ValLoader
from ...ops.instances import Instances
from ...ops.letterbox import Fit
from ...ops.nms import Suppression
from ...plots.sheets import batch_sheet
from ...predict.writer import write_files
from ...tasks import TASKS, Task, task_of
from ...tasks.confusion import MATRIX_CONF
from ...tasks.detect import predict_decoded
from ...tasks.metrics import TaskMetrics
from ...val.loop import progress
from ...val.pictures import Pictures
from ...val.run import Share, counted_batch, loader_of, options_of
from .batches import dict_of
from .datasets import dict_of_data
from .detections import boxes_only, label_rows, rows_of
from .losses import has_own_loss, losses_of
from .overriding import is_replaced

Script = Any  # a BaseValidator or BaseTrainer, whose file imports this one
BATCHES_DRAWN = 3
MIN_SCORE = 0.25  # detections with a higher score are drawn


class LoaderOfSplit:
    """Our loader of a split as scripts have it: batches are dicts, with ratio_pad and ori_shape of each image."""

    def __init__(self, loader: ValLoader, samples: Sequence[Sample], task: Task) -> None:
        self.loader, self.dataset, self.task = loader, samples, task

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, object]]:
        for images, fits, indices in self.loader:
            yield _dict_of(images, fits, [self.dataset[index] for index in indices], self.task)


def _dict_of(images: Tensor, fits: Sequence[Fit], samples: Sequence[Sample], task: Task) -> dict[str, object]:
    labels = []
    for image, (sample, fit) in enumerate(zip(samples, fits, strict=True)):
        truth = sample.pixel_labels().to_canvas(fit)
        truth = truth if task.oriented else replace(truth, polygons=None)
        labels.append(replace(truth, image=torch.full_like(truth.classes, image)))
    batch = Batch(images, Instances.cat(labels).to(images.device))
    return {
        **dict_of(batch, [str(sample.image) for sample in samples], task, samples[0].layout),
        "ori_shape": tuple(sample.size for sample in samples),
        "resized_shape": tuple(fit.canvas for fit in fits),
        "ratio_pad": tuple(_ratio_pad(fit) for fit in fits),
    }


def _ratio_pad(fit: Fit) -> tuple[tuple[float, float], tuple[int, int]]:
    gains = fit.resized[0] / fit.original[0], fit.resized[1] / fit.original[1]
    return gains, (fit.pad[1], fit.pad[0])


class Measuring:
    """What a validation under way has counted: for each image its labels, as a Sample, and its detections."""

    def __init__(self, rule: Suppression, settings: Settings, split: Sequence[Sample] = ()) -> None:
        self.rule, self.settings, self.split = rule, settings, split
        self.samples: list[Sample] = []
        self.detections: list[Instances] = []

    def add(self, sample: Sample, detections: Instances) -> None:
        """Count an image and its detections in pixels of the original image."""
        image = torch.full_like(detections.classes, len(self.samples))
        self.samples.append(sample)
        self.detections.append(replace(detections, image=image))

    def joined(self) -> Instances:
        """The detections of all images."""
        none = replace(Instances.empty(), scores=torch.zeros(0), image=torch.zeros(0, dtype=torch.int64))
        return Instances.cat(self.detections) if self.detections else none

    def evaluate(self, task: Task, names: Mapping[int, str], conf: float) -> TaskMetrics:
        """Return the metrics of all images. conf: detections with a higher score were measured."""
        matrix_conf = MATRIX_CONF if conf == task.conf else conf
        return replace(task.evaluate(self.samples, self.joined(), names, conf=matrix_conf), conf=conf)


def measure(
    script: Script, network: nn.Module, trainer: Script | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Validate a network by the methods of `script`; returns the numbers by name, of a trainer with its losses."""
    boxes_only(script.task, "validation")
    network.eval()
    script.device = next(network.parameters()).device
    if trainer is not None:
        running = trainer._running
        settings = running.args
        rule = Suppression(conf=TASKS[script.task].conf, iou=settings.iou, max_det=settings.max_det, multi_label=True)
        script._measuring = Measuring(rule, settings)
        script.data, script.save_dir = trainer.data, trainer.save_dir
    else:
        settings = _open_data(script, network, settings)
    script.run_callbacks("on_val_start")
    with torch.inference_mode():
        sums, batches = _all_batches(script, network, trainer)
        stats = dict(script.get_stats() or {})
    script.speed = {name: ms / max(script.seen, 1) for name, ms in script.speed.items()}
    script.finalize_metrics()
    script.print_results()
    script.run_callbacks("on_val_end")
    if trainer is not None:
        return {**stats, **{f"val/{name}": value / max(batches, 1) for name, value in sums.items()}}
    return _written(script, stats, settings)


def _open_data(script: Script, network: nn.Module, settings: Settings) -> Settings:
    """Find the split and its loader, unless the script gave one; returns the completed settings."""
    samples: Sequence[Sample] = ()
    rule = options_of(network, settings, False).rule
    if script.dataloader is None:
        form = task_of(network).data
        data, settings = find_data(settings, form)
        same_classes(network.names, class_names(settings, data), data)
        settings = counted_batch(legal_side(settings, network.multiple))
        script.data = dict_of_data(data)
        if not is_replaced(script, "get_dataloader", "build_dataset"):
            samples = scan_split(data, settings.split, settings, form).samples
            loader = loader_of(network, samples, settings, Share())
            script.dataloader = LoaderOfSplit(loader, samples, task_of(network))
    script._measuring = Measuring(rule, settings, samples)
    if script.dataloader is None:
        script.dataloader = script.get_dataloader(script.data.get(settings.split), settings.batch)
    if script.save_dir is None and (settings.plots or settings.save_json or settings.save_txt):
        script.save_dir = new_run_dir("val", settings.project, settings.name, settings.exist_ok, settings.task)
    return settings


def _all_batches(script: Script, network: nn.Module, trainer: Script | None) -> tuple[dict[str, float], int]:
    """Run all batches; returns the sums of the losses by name, and the number of batches."""
    sums: dict[str, float] = {}
    script.init_metrics(network)
    script.speed = dict.fromkeys(script.speed, 0.0)
    settings, batches = script._measuring.settings, 0
    for number, values in enumerate(progress("val")(script.dataloader)):
        script.batch_i, batches = number, batches + 1
        _outside(script, "on_val_batch_start")
        clock = _Clock(script)
        values = script.preprocess(values)
        clock.lap("preprocess")
        with torch.autocast(script.device.type, dtype=_half(trainer), enabled=_half(trainer) is not None):
            outputs = network(values["img"])
        decoded = _decoded(network, values["img"], outputs, settings.augment and trainer is None)
        clock.lap("inference")
        if trainer is not None:
            for name, value in _losses(trainer, network, values, outputs).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        clock.lap("loss")
        detections = script.postprocess(decoded)
        clock.lap("postprocess")
        script.update_metrics(detections, values)
        if script.args.plots and number < BATCHES_DRAWN and script.save_dir is not None:
            script.plot_val_samples(values, number)
            script.plot_predictions(values, detections, number)
        _outside(script, "on_val_batch_end")
    return sums, batches


def _half(trainer: Script | None) -> torch.dtype | None:
    return None if trainer is None else trainer._running.precision


def _decoded(network: nn.Module, images: Tensor, outputs: Any, augment: bool) -> Any:
    """The outputs as scripts have them: decoded (B, 4+nc, A), and the raw ones."""
    if hasattr(network, "decode") and not isinstance(outputs, (tuple, list)):
        decoded = predict_decoded(network, images, True).candidates if augment else network.decode(outputs)
        return decoded, outputs
    return outputs


def _losses(trainer: Script, network: nn.Module, values: dict[str, Any], outputs: Any) -> dict[str, Tensor]:
    """The losses of a batch by name, of the network's own loss or of ours."""
    running = trainer._running
    if has_own_loss(running.model):
        return losses_of(network, values, trainer.loss_names, outputs, times_images=running.task.times_images)
    labels = [label_rows(values, index) for index in range(len(values["img"]))]
    rows = [
        Instances(boxes, classes.long(), image=torch.full_like(classes.long(), image))
        for image, (classes, boxes) in enumerate(labels)
    ]
    where = {"sizes": outputs.sizes, "strides": network.strides}
    return running.task.loss(outputs, Instances.cat(rows), **where, gains=running.gains)


def _outside(script: Script, event: str) -> None:
    with torch.inference_mode(False):  # tensors that a callback makes can be trained on
        script.run_callbacks(event)


def _written(script: Script, stats: dict[str, float], settings: Settings) -> dict[str, float]:
    """Write predictions.json and label files where they are asked for; returns the numbers."""
    counted = script._measuring
    if settings.save_json or settings.save_txt:
        if script.jdict:
            write_text(script.save_dir / "predictions.json", json.dumps(script.jdict))
        elif counted.samples and not is_replaced(script, "save_one_txt"):
            write_files(script.save_dir, counted.samples, counted.joined(), script.names, settings, coco=False)
        stats = script.eval_json(stats)
    if isinstance(script.metrics, TaskMetrics) and script.seen and script.save_dir is not None:
        Pictures(script.save_dir, script.names, settings.plots).curves(script.metrics)
    return stats


class _Clock:
    """Adds the milliseconds of each stage of a batch to `script.speed`."""

    def __init__(self, script: Script) -> None:
        self.script, self.last = script, time.perf_counter()

    def lap(self, stage: str) -> None:
        if self.script.device.type == "cuda":
            torch.cuda.synchronize(self.script.device)
        now = time.perf_counter()
        self.script.speed[stage] += (now - self.last) * 1e3
        self.last = now


def draw(
    script: Script, batch: Mapping[str, Any], detections: Sequence[Any] | None, name: str, least: float = MIN_SCORE
) -> None:
    """Draw the images of a batch with their labels, or with detections, into the folder of the run.

    Detections with a score above `least` are drawn.
    """
    images = batch["img"].detach().float().cpu()
    pixels = (images * 255 if images.max() <= 1 else images).round().byte().numpy()
    rows = []
    for index in range(len(pixels)):
        if detections is None:
            classes, boxes = label_rows(batch, index)
            rows.append([[*box, 1.0, cls] for box, cls in zip(boxes.tolist(), classes.tolist())])
        else:
            rows.append([row for row in rows_of(detections[index]).tolist() if row[4] > least])
    captions = [Path(file).name for file in batch.get("im_file", ())]
    sheet = batch_sheet(pixels, rows, script.names, conf=detections is not None, captions=captions)
    script.save_dir.mkdir(parents=True, exist_ok=True)
    sheet.save(script.save_dir / name, quality=90)
    script.on_plot(script.save_dir / name)
