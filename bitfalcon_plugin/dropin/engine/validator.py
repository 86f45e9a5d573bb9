"""BaseValidator: a validation as an object whose methods a script may replace (spec/dropin.md section 7).

Where nothing is replaced our own validation runs; otherwise `measuring.py` calls the methods batch by batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ...config.notes import print_note
from ...config.printable import say
from ...config.settings import Settings
from ...data.loading.loader import ValLoader
from ...ops.boxes import box_iou, pair_greedily
from ...tasks import TASKS
from ...tasks.metrics import TaskMetrics
from ...val.run import run_val
from ..utils.metrics import DetMetrics
from .arguments import Given
from .batches import to_device
from .counting import count_image, matches_itself, native_rows, stats_of_matches
from .detections import Detections, decoded_of, label_rows, place, place_of, rows_of
from .events import CallbackOwner, ScriptEvents, known_task
from .loaders import build_dataset, build_loader
from .measuring import LoaderOfSplit, Measuring, draw, measure
from .networks import network_for, prepare_copy
from .overriding import is_replaced, own

METHODS = (
    "preprocess postprocess init_metrics update_metrics get_stats finalize_metrics print_results get_desc "
    "get_dataloader build_dataset plot_val_samples plot_predictions eval_json pred_to_json save_one_txt "
    "_prepare_batch _prepare_pred _process_batch match_predictions"
).split()
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


class BaseValidator(CallbackOwner):
    """A validation: `Validator(args=dict(model=..., data=...))()` returns its numbers by name.

    dataloader: batches as dicts; without one the split of data= is read. args: settings, a mapping or a namespace.
    _callbacks: functions by event. After a call `metrics` has everything that was measured.
    """

    task = "detect"  # a key of tasks.TASKS
    defaults: Mapping[str, object] = MappingProxyType({})

    def __init__(
        self,
        dataloader: Any = None,
        save_dir: str | Path | None = None,
        args: Any = None,
        _callbacks: Mapping | None = None,
        pbar: Any = None,
    ):
        super().__init__(_callbacks)
        known_task(self)
        self._given = Given("val", args, self.defaults)
        self.args, self.dataloader = self._given.args, dataloader
        if self.args.conf is None:
            self._given.adopt({"conf": TASKS[self.task].conf})
        self.save_dir = Path(save_dir) if save_dir else None
        self.training, self.batch_i, self.seen, self.nc = True, 0, 0, 0
        self.names: dict[int, str] = {}
        self.device: Any = None
        self.data: Any = None
        self.metrics: Any = DetMetrics()
        self.confusion_matrix: Any = None
        self.stats: Any = {}
        self.jdict: list[dict[str, object]] = []
        self.plots: dict[Path, dict[str, object]] = {}
        self.lb: list[object] = []
        self.speed = {"preprocess": 0.0, "inference": 0.0, "loss": 0.0, "postprocess": 0.0}
        self.iouv = torch.tensor(IOUS)
        self.niou = len(IOUS)
        self._measuring: Measuring | None = None

    def __call__(self, trainer: Any = None, model: Any = None) -> dict[str, float]:
        """Validate: the averaged weights of a trainer, or `model`, a network or a path, by default that of `args`.

        Returns the numbers by name with fitness; of a trainer also `val/` losses, all rounded to five decimals.
        """
        self.training = trainer is not None
        if trainer is not None:
            numbers = measure(self, trainer.ema.ema, trainer)
            return {name: round(float(value), 5) for name, value in numbers.items()}
        network, settings = self._network(model)
        if not self.is_ours():
            if settings.tile is not None:
                print_note(f"tile={settings.tile} has no effect: methods that a validator replaces get whole images.")
            return measure(self, network, settings=settings)
        self._read(run_val(network, settings, ScriptEvents(self.callbacks, self.bind)))
        return self.metrics.results_dict

    def is_ours(self) -> bool:
        """Whether our own validation does what this object's methods do: nothing is replaced, nor the batches."""
        return not is_replaced(self, *METHODS) and isinstance(self.dataloader, (type(None), LoaderOfSplit, ValLoader))

    def bind(self, running: Any, script: Any = None) -> BaseValidator:
        """Take what callbacks read from our validation that runs; returns this object."""
        self.device, self.dataloader = running.device, self.dataloader or running.dataloader
        self.save_dir = running.save_dir or self.save_dir
        self.names, self.nc = dict(running.model.names), running.model.nc
        if running.metrics is not None:
            self._read(running.metrics)
        return self

    def _read(self, metrics: Any) -> None:
        self.metrics = opened(metrics)
        self.seen, self.speed = metrics.images, dict(metrics.speed)
        self.confusion_matrix = metrics.confusion_matrix

    def _network(self, model: Any) -> tuple[nn.Module, Settings]:
        settings = self._given.settings()
        if isinstance(model, nn.Module) or hasattr(model, "decode"):  # an exported model is no Module
            return prepare_copy(model, settings), settings
        return network_for(settings if model is None else settings.replace(model=str(model)))

    @own
    def get_desc(self) -> str:
        """Return the header of the table."""
        return f"{'Class':>22}{'Images':>11}{'Instances':>11}{'P':>11}{'R':>11}{'mAP50':>11}{'mAP50-95':>11}"

    @own
    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> Any:
        """Return the dataset of the images at a path."""
        return build_dataset(self, img_path, mode, batch)

    @own
    def get_dataloader(self, dataset_path: str, batch_size: int = 16) -> Any:
        """Return a loader of dicts of the images at a path."""
        return build_loader(self, self.build_dataset(dataset_path, batch=batch_size, mode="val"), batch_size, "val")

    @own
    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch on the device, its images in [0, 1]."""
        return to_device(batch, self.device)

    @own
    def init_metrics(self, model: nn.Module) -> None:
        """Begin a validation: nothing is seen yet."""
        self.names, self.nc = dict(model.names), len(model.names)
        self.metrics = DetMetrics(names=self.names)
        self.seen, self.jdict, self.stats = 0, [], {"tp": [], "conf": [], "pred_cls": [], "target_cls": []}

    @own
    def postprocess(self, preds: Any) -> list[Tensor]:
        """Return the detections of each image, (n, 6) in pixels of the input: see Detections."""
        decoded = decoded_of(preds, self.nc)
        rule = replace(self._measuring.rule, **self._changed_rule())
        return [Detections.of(each.rows()) for each in TASKS[self.task].decode(decoded, rule)]

    def _changed_rule(self) -> dict[str, object]:
        """What a script has set in `args` since the settings were read."""
        conf = TASKS[self.task].conf if self.args.conf is None else self.args.conf
        return {"conf": conf, "iou": self.args.iou, "max_det": self.args.max_det}

    @own
    def update_metrics(self, preds: list[Any], batch: dict[str, Any]) -> None:
        """Count the detections of each image, with its labels, in pixels of the original image."""
        for index, detections in enumerate(preds):
            self.seen += 1
            count_image(self, detections, batch, index)

    @own
    def _prepare_batch(self, si: int, batch: dict[str, Any]) -> dict[str, Any]:
        """The labels of one image: cls (n,), bboxes (n, 4) xyxy in pixels of the input, ori_shape, imgsz, ratio_pad.

        bbox (n, 4): in pixels of the original image, as older scripts read them.
        """
        classes, boxes = label_rows(batch, si)
        keys = ("ori_shape", "ratio_pad", "im_file")
        rest = {key: batch[key][si] for key in keys if key in batch}
        native = place_of(batch, si).to_original(boxes)
        return {"cls": classes, "bboxes": boxes, "bbox": native, "imgsz": tuple(batch["img"].shape[2:]), **rest}

    @own
    def _prepare_pred(self, pred: Any, pbatch: Any = None) -> Any:
        """Return detections as they are counted; with the labels of their image in pixels of the original image."""
        if pbatch is None:
            return pred
        return native_rows(rows_of(pred), place(pbatch["imgsz"], pbatch.get("ori_shape"), pbatch.get("ratio_pad")))

    @own
    def _process_batch(self, preds: Any, batch: Any, gt_cls: Tensor | None = None) -> Any:
        """Match detections with labels: {"tp": (n, 10) bool}; for three tensors, the older form, the tensor alone."""
        if gt_cls is not None:
            return self.match_predictions(preds[:, 5], gt_cls, box_iou(batch, preds[:, :4]))
        rows = rows_of(preds)
        overlap = box_iou(batch["bboxes"].float(), rows[:, :4].float())
        return {"tp": self.match_predictions(rows[:, 5], batch["cls"], overlap).cpu().numpy()}

    @own
    def match_predictions(
        self, pred_classes: Tensor, true_classes: Tensor, iou: Tensor, use_scipy: bool = False
    ) -> Tensor:
        """Return (n, 10) bool: whether a detection matches a label of its class at each IoU from 0.50 to 0.95.

        iou (labels, n). The pair with the greatest overlap is taken first, each label and detection at most once.
        """
        correct = torch.zeros(len(pred_classes), len(IOUS), dtype=torch.bool, device=pred_classes.device)
        overlap = (iou * (true_classes[:, None] == pred_classes[None])).cpu()
        for column, threshold in enumerate(IOUS):
            correct[pair_greedily(overlap, threshold)[:, 1], column] = True
        return correct

    @own
    def get_stats(self) -> dict[str, float]:
        """Return the numbers by name, and keep all of them in `metrics`."""
        if matches_itself(self) or not self._measuring.samples:
            return stats_of_matches(self)
        conf = TASKS[self.task].conf if self.args.conf is None else float(self.args.conf)
        self.metrics = opened(self._measuring.evaluate(TASKS[self.task], self.names, conf))
        self.confusion_matrix = self.metrics.confusion_matrix
        return self.metrics.results_dict

    @own
    def finalize_metrics(self, *args: object, **kwargs: object) -> None:
        """Give `metrics` the speed and the folder."""
        self.metrics.speed, self.metrics.save_dir = dict(self.speed), self.save_dir

    @own
    def print_results(self) -> None:
        """Print the table of the metrics."""
        if isinstance(self.metrics, TaskMetrics) and not self.training:
            say(self.metrics.table(self.args.verbose))

    @own
    def plot_val_samples(self, batch: dict[str, Any], ni: int) -> None:
        """Draw val_batch<ni>_labels.jpg."""
        draw(self, batch, None, f"val_batch{ni}_labels.jpg")

    @own
    def plot_predictions(self, batch: dict[str, Any], preds: list[Any], ni: int) -> None:
        """Draw val_batch<ni>_pred.jpg."""
        draw(self, batch, preds, f"val_batch{ni}_pred.jpg")

    @own
    def eval_json(self, stats: dict[str, float]) -> dict[str, float]:
        """Return the numbers as they are: they are COCO's already."""
        return stats

    @own
    def pred_to_json(self, predn: Any, filename: Any) -> None:
        """Add the detections of an image, in pixels of the original, to `jdict`."""
        rows = rows_of(predn).tolist()
        name = Path(str(filename)).stem
        for x1, y1, x2, y2, score, cls in rows:
            box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            record = {"image_id": int(name) if name.isnumeric() else name, "category_id": int(cls) + 1}
            self.jdict.append({**record, "bbox": box, "score": round(score, 5)})

    @own
    def save_one_txt(self, predn: Any, save_conf: bool, shape: tuple[int, int], file: str | Path) -> None:
        """Write the detections of an image, in pixels of the original, as a label file."""
        height, width = shape[:2]
        lines = []
        for x1, y1, x2, y2, score, cls in rows_of(predn).tolist():
            xywhn = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
            numbers = (*xywhn, score) if save_conf else xywhn
            lines.append(" ".join([str(int(cls)), *(f"{number:g}" for number in numbers)]) + "\n")
        Path(file).write_text("".join(lines), encoding="utf-8")

    @own
    def on_plot(self, name: str | Path, data: object = None) -> None:
        """Remember a picture that was drawn."""
        self.plots[Path(name)] = {"data": data}


@lru_cache
def _open_class(cls: type) -> type:
    return type(cls.__name__, (cls,), {"__setattr__": object.__setattr__, "__doc__": cls.__doc__})


def opened(metrics: TaskMetrics) -> TaskMetrics:
    """Return metrics with the same values, of which a script may set attributes."""
    twin = object.__new__(_open_class(type(metrics)))
    vars(twin).update(vars(metrics))
    return twin
