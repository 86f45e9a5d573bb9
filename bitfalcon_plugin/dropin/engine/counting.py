"""How a script's validator counts an image, and the numbers of matches that a script makes itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.dataset import Sample
from ...ops.instances import Instances
from ...ops.letterbox import Fit
from ..utils.metrics import DetMetrics
from .detections import Detections, place_of, rows_of
from .overriding import is_replaced

Script = Any  # a BaseValidator, whose file imports this one
MATCHING = ("_process_batch", "match_predictions")
COLUMNS = ("tp", "conf", "pred_cls", "target_cls")


def native_rows(rows: Tensor, fit: Fit) -> Detections:
    """Return detections (n, 6) in pixels of the original image."""
    return Detections.of(torch.cat([fit.to_original(rows[:, :4]).to(rows.dtype), rows[:, 4:]], 1))


def count_image(script: Script, detections: Any, batch: Mapping[str, Any], index: int) -> None:
    """Count one image: its labels and detections as the script prepares them, and its files."""
    fit, prepared = place_of(batch, index), script._prepare_batch(index, batch)
    if len(inspect.signature(script._prepare_pred).parameters) > 1:  # the older form, in pixels of the original image
        native = rows_of(script._prepare_pred(detections, prepared))
    else:
        detections = script._prepare_pred(detections)
        native = native_rows(rows_of(detections), fit).as_subclass(Tensor)
    file = Path(str(batch["im_file"][index])) if batch.get("im_file") else Path(f"image{script.seen - 1}")
    sample = _sample(prepared, fit, file)
    script._measuring.add(sample, Instances.from_rows(native.detach().float().cpu()))
    if matches_itself(script):
        _take_matches(script, detections, native, prepared)
    if script.args.save_json and is_replaced(script, "pred_to_json"):
        script.pred_to_json(Detections.of(native), str(file))
    if script.args.save_txt and is_replaced(script, "save_one_txt"):
        folder = script.save_dir / "labels"
        folder.mkdir(parents=True, exist_ok=True)
        script.save_one_txt(Detections.of(native), script.args.save_conf, fit.original, folder / f"{file.stem}.txt")


def _sample(prepared: Mapping[str, Any], fit: Fit, file: Path) -> Sample:
    """The labels of one image as a Sample: boxes in shares of the original image."""
    newer = prepared.get("bboxes")
    native = prepared["bbox"] if newer is None else fit.to_original(newer)
    height, width = fit.original
    shares = native.detach().float().cpu() / torch.tensor([width, height] * 2)
    return Sample(file, fit.original, Instances(shares, prepared["cls"].detach().flatten().cpu().long()))


def matches_itself(script: Script) -> bool:
    """Whether the script decides which detections match a label."""
    return is_replaced(script, *MATCHING)


def _take_matches(script: Script, detections: Any, native: Tensor, prepared: Mapping[str, Any]) -> None:
    rows, classes = rows_of(detections), prepared["cls"].flatten()
    takes_three = len(inspect.signature(script._process_batch).parameters) > 2 and is_replaced(script, "_process_batch")
    if takes_three:  # the older form
        matches = script._process_batch(native, prepared["bbox"], classes)
    else:
        matches = script._process_batch(detections, prepared)["tp"]
    values = {"tp": matches, "conf": rows[:, 4], "pred_cls": rows[:, 5], "target_cls": classes}
    for name in COLUMNS:
        script.stats.setdefault(name, []).append(_array(values[name]))


def stats_of_matches(script: Script) -> dict[str, float]:
    """Return the numbers of the matches in `script.stats`, or that `script.metrics` took."""
    if not isinstance(script.metrics, DetMetrics):
        script.metrics = DetMetrics(names=script.names)
    lists = [script.stats.get(name) for name in COLUMNS] if isinstance(script.stats, dict) else []
    if lists and all(lists):
        script.metrics.process(*(np.concatenate([_array(each) for each in values]) for values in lists))
    else:
        script.metrics.process()
    return script.metrics.results_dict


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
