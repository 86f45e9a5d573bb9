"""Overlaps, average precision, and the objects of metrics that scripts read. Written from spec/dropin.md section 5.

These numbers follow the wider package; what `bitfalcon val` calls mAP comes from pycocotools (tasks/coco.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...plots.charts import draw_curve
from ...tasks.curves import POINTS, ClassMatches, gather_curves, harmonic_mean
from ...tasks.metrics import BoxMetrics
from .matrix import ConfusionMatrix
from .overlaps import OKS_SIGMA, bbox_ioa, bbox_iou, box_iou, kpt_iou, mask_iou
from .rotated import batch_probiou, probiou

__all__ = [
    "OKS_SIGMA",
    "ClassifyMetrics",
    "ConfusionMatrix",
    "DetMetrics",
    "Metric",
    "OBBMetrics",
    "PoseMetrics",
    "SegmentMetrics",
    "ap_per_class",
    "batch_probiou",
    "bbox_ioa",
    "bbox_iou",
    "box_iou",
    "compute_ap",
    "kpt_iou",
    "mask_iou",
    "probiou",
    "smooth",
    "smooth_bce",
]


def smooth_bce(eps: float = 0.1) -> tuple[float, float]:
    """Return the targets of a true and of a false class under label smoothing."""
    return 1.0 - eps / 2, eps / 2


smooth_BCE = smooth_bce  # its older name


def smooth(y: np.ndarray, f: float = 0.05) -> np.ndarray:
    """Return y (n,) averaged over windows of about the share f of its length; the ends go on beyond the borders."""
    half = (round(len(y) * f * 2) // 2 + 1) // 2
    width = 2 * half + 1
    return np.convolve(np.pad(y, half, mode="edge"), np.full(width, 1 / width), "valid")


def compute_ap(recall: Sequence[float], precision: Sequence[float]) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the average precision of a curve, and the curve that was measured: precision, recall, with ends added.

    The precision at a recall is the best at this recall or a higher one; beyond the last recall it is 0. The area is
    the trapezoids' between 101 recalls.
    """
    last = recall[-1] if len(recall) else 0.0
    mrec = np.concatenate(([0.0], recall, [last, 1.0]))
    mpre = np.concatenate(([1.0], precision, [0.0, 0.0]))
    mpre = np.maximum.accumulate(mpre[::-1])[::-1]
    heights = np.interp(np.linspace(0, 1, 101), mrec, mpre)
    return float(((heights[1:] + heights[:-1]) / 2).sum() / 100), mpre, mrec


def ap_per_class(
    tp: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    target_cls: np.ndarray,
    plot: bool = False,
    on_plot: Callable[[Path], object] | None = None,
    save_dir: str | Path = Path(),
    names: Mapping[int, str] | Sequence[str] = (),
    eps: float = 1e-16,
    prefix: str = "",
) -> tuple:
    """Measure detections of all images: tp (n, 10) bool at IoU 0.50 to 0.95, conf (n,), pred_cls (n,), target_cls (m,).

    Return tp, fp, p, r, f1 (c,) at the confidence of the best mean F1, ap (c, 10), the classes (c,) int that have
    labels, the curves of precision, recall and F1 over confidence (c, 1000), their abscissas (1000,), and precision
    over recall (c, 1000). plot: draw the four curves into save_dir; prefix stands before their names.
    """
    tp, conf, pred_cls, target_cls = (np.asarray(_array(part)) for part in (tp, conf, pred_cls, target_cls))
    pred_cls, target_cls = pred_cls.reshape(-1), target_cls.reshape(-1)
    classes, counts = np.unique(target_cls, return_counts=True)
    ap = np.zeros((len(classes), tp.shape[1] if tp.ndim > 1 else 10))
    matches = {}
    for row, (label, count) in enumerate(zip(classes, counts, strict=True)):
        mine = np.flatnonzero(pred_cls == label)
        mine = mine[np.argsort(-conf[mine], kind="stable")]
        matches[int(label)] = ClassMatches(conf[mine], tp[mine, 0].astype(bool), int(count))
        hits = tp[mine].astype(float).cumsum(0)  # (k, 10)
        found = np.arange(1, len(mine) + 1)
        for column in range(ap.shape[1] if len(mine) else 0):
            ap[row, column], *_ = compute_ap(hits[:, column] / (count + eps), hits[:, column] / found)
    lines, p, r = gather_curves(matches)
    f1 = harmonic_mean(p, r)
    right = (r * counts).round()
    wrong = (right / (p + eps) - right).round()
    grid = np.linspace(0, 1, POINTS)
    if plot:
        _draw(Path(save_dir), prefix, lines, ap, names, on_plot)
    f1_curve = harmonic_mean(lines.precision, lines.recall)
    curves = (lines.precision, lines.recall, f1_curve, grid, lines.envelope)
    return (right, wrong, p, r, f1, ap, classes.astype(int), *curves)


def _draw(folder: Path, prefix: str, lines: Any, ap: np.ndarray, names: Any, on_plot: Callable | None) -> None:
    """Draw the four curves into files of a folder."""
    named = dict(names if isinstance(names, Mapping) else enumerate(names))
    labels = [str(named.get(index, index)) for index in lines.classes.tolist()]
    at_best = {"F1": lines.f1, "P": lines.precision, "R": lines.recall}
    words = {"F1": "F1", "P": "Precision", "R": "Recall"}
    mark = float(lines.grid[lines.best])
    ap50 = ap[:, 0].tolist()
    target = folder / f"{prefix}PR_curve.png"
    mean = f"all classes  AP50 {ap[:, 0].mean() if len(ap) else 0:.3f}"
    paths = [draw_curve(target, lines.grid, lines.envelope, ("Recall", "Precision"), labels, ap50, mean)]
    for letter, curves in at_best.items():
        values = curves[:, lines.best].tolist()
        mean = f"all classes  {np.mean(values) if values else 0:.3f} at {mark:.3f}"
        target, axes = folder / f"{prefix}{letter}_curve.png", ("Confidence", words[letter])
        paths.append(draw_curve(target, lines.grid, curves, axes, labels, values, mean, mark))
    for path in paths if on_plot else ():
        on_plot(path)


class Metric(BoxMetrics):
    """The numbers of one kind of overlap, as arrays over the classes that have labels; empty before `update`.

    p, r, f1, ap50, ap (c,), all_ap (c, 10), ap_class_index (c,), maps (nc,); mp, mr, map50, map75, map: their means.
    """

    __setattr__ = object.__setattr__  # it is filled: the base is frozen

    def __init__(self) -> None:
        super().__init__(np.zeros(0), np.zeros(0), np.zeros((0, 10)), np.zeros(0, int), 0)
        grid = np.linspace(0, 1, POINTS)
        self.p_curve = self.r_curve = self.f1_curve = self.prec_values = np.zeros((0, POINTS))
        self.px = grid

    def update(self, results: Sequence[Any]) -> None:
        """Take the last ten of what ap_per_class returns: p, r, f1, ap, classes, and the curves."""
        self.p, self.r, _, self.all_ap, self.ap_class_index = results[:5]
        self.p_curve, self.r_curve, self.f1_curve, self.px, self.prec_values = results[5:10]
        self.nc = max(self.nc, int(self.ap_class_index.max(initial=-1)) + 1)

    def fitness(self) -> float:
        """Return 0.1 AP50 + 0.9 AP."""
        return 0.1 * self.map50 + 0.9 * self.map

    @property
    def curves_results(self) -> list[list[Any]]:
        """Abscissas, curves (c, 1000) and the names of the axes: precision over recall, then F1, P and R."""
        over = {"F1": self.f1_curve, "Precision": self.p_curve, "Recall": self.r_curve}
        rest = [[self.px, values, "Confidence", name] for name, values in over.items()]
        return [[self.px, self.prec_values, "Recall", "Precision"], *rest]


class DetMetrics:
    """The metrics of a detector: DetMetrics(names=...) or DetMetrics(save_dir, plot, on_plot, names).

    box: Metric. names: class index to name. speed: milliseconds an image. All numbers are 0 before `process`.
    """

    task = "detect"
    parts: Mapping[str, str] = {"box": "B"}  # attribute -> letter in the names of columns
    matches: tuple[str, ...] = ("tp",)  # what process() takes for each part

    def __init__(self, *options: Any, **named: Any):
        if options and isinstance(options[0], Mapping):
            named["names"] = options[0]
        else:
            named.update(zip(("save_dir", "plot", "on_plot", "names"), options))
        self.names: dict[int, str] = dict(named.get("names") or {})
        self.save_dir = Path(named.get("save_dir") or ".")
        self.plot, self.on_plot = bool(named.get("plot", False)), named.get("on_plot")
        for part in self.parts:
            metric = Metric()
            metric.nc = len(self.names)
            setattr(self, part, metric)
        self.speed = dict.fromkeys(("preprocess", "inference", "loss", "postprocess"), 0.0)
        self.clear_stats()

    def clear_stats(self) -> None:
        """Forget the detections and labels that update_stats took."""
        self.stats: dict[str, list] = {
            key: [] for key in (*self.matches, "conf", "pred_cls", "target_cls", "target_img")
        }

    def update_stats(self, stat: Mapping[str, Any]) -> None:
        """Take the detections of one image: tp (n, 10), conf (n,), pred_cls (n,), target_cls (m,), target_img (k,)."""
        for key, values in self.stats.items():
            if key in stat:
                values.append(np.asarray(_array(stat[key])))

    def process(self, *given: Any, **options: Any) -> dict[str, np.ndarray] | None:
        """Compute the numbers: of what update_stats took, with save_dir=, plot=, on_plot=; returns what was taken.

        Or of arrays: tp (n, 10) for each part, conf (n,), pred_cls (n,), target_cls (m,) of all images.
        """
        if len(given) > len(self.parts) + 2:
            stats = dict(zip((*self.matches, "conf", "pred_cls", "target_cls"), given))
        else:
            options.update(zip(("save_dir", "plot", "on_plot"), given))
            stats = {key: np.concatenate(values, 0) for key, values in self.stats.items() if values}
        if "tp" not in stats:
            return stats
        target = np.asarray(_array(stats["target_cls"])).astype(int).reshape(-1)
        self.nt_per_class = np.bincount(target, minlength=len(self.names))
        drawing = {"plot": options.get("plot", self.plot), "save_dir": options.get("save_dir", self.save_dir)}
        drawing |= {"on_plot": options.get("on_plot", self.on_plot), "names": self.names}
        for part, key in zip(self.parts, self.matches, strict=True):
            prefix = {"box": "Box", "seg": "Mask", "pose": "Pose"}[part]
            columns = (stats[key], stats["conf"], stats["pred_cls"], target)
            getattr(self, part).update(ap_per_class(*columns, prefix=prefix, **drawing)[2:])
        return stats

    @property
    def _metrics(self) -> list[Metric]:
        return [getattr(self, part) for part in self.parts]

    @property
    def keys(self) -> list[str]:
        """The names of what mean_results gives."""
        names = ("precision", "recall", "mAP50", "mAP50-95")
        return [f"metrics/{name}({letter})" for letter in self.parts.values() for name in names]

    def mean_results(self) -> list[float]:
        """Return precision, recall, mAP50 and mAP50-95 of each part."""
        return [value for metric in self._metrics for value in metric.mean_results()]

    def class_result(self, i: int) -> tuple[float, ...]:
        """Return precision, recall, AP50 and AP of the class ap_class_index[i], for each part."""
        return tuple(value for metric in self._metrics for value in metric.class_result(i))

    @property
    def maps(self) -> np.ndarray:
        """AP (nc,) of every class, the parts added; the mean where a class has no labels."""
        return np.sum([metric.maps for metric in self._metrics], 0)

    @property
    def fitness(self) -> float:
        """0.1 AP50 + 0.9 AP, the parts added."""
        return sum(metric.fitness() for metric in self._metrics)

    @property
    def ap_class_index(self) -> np.ndarray:
        """The classes (c,) that have labels."""
        return self.box.ap_class_index

    @property
    def results_dict(self) -> dict[str, float]:
        """The mean results by name, and fitness."""
        return {**dict(zip(self.keys, self.mean_results(), strict=True)), "fitness": self.fitness}

    def get(self, key: str, default: Any = None) -> Any:
        """Return a number of results_dict."""
        return self.results_dict.get(key, default)

    @property
    def curves(self) -> list[str]:
        """The names of curves_results."""
        names = ("Precision-Recall", "F1-Confidence", "Precision-Confidence", "Recall-Confidence")
        return [f"{name}({letter})" for letter in self.parts.values() for name in names]

    @property
    def curves_results(self) -> list[list[Any]]:
        """For each name in curves: abscissas, curves (c, 1000) and the names of the axes."""
        return [row for metric in self._metrics for row in metric.curves_results]

    def summary(self, normalize: bool = True, decimals: int = 5) -> list[dict[str, Any]]:
        """Return a dict for each class that has labels, its numbers rounded."""
        records = []
        for row, index in enumerate(self.ap_class_index.tolist()):
            record: dict[str, Any] = {"Class": self.names.get(index, str(index))}
            if hasattr(self, "nt_per_class"):
                record["Instances"] = int(self.nt_per_class[index])
            for word, metric in zip(("Box", "Mask" if "seg" in self.parts else "Pose"), self._metrics):
                numbers = {"P": metric.p, "R": metric.r, "F1": metric.f1}
                record |= {f"{word}-{name}": round(float(values[row]), decimals) for name, values in numbers.items()}
            box = self.box
            numbers = {"mAP50": box.ap50, "mAP75": box.all_ap[:, 5], "mAP50-95": box.ap}
            record |= {name: round(float(values[row]), decimals) for name, values in numbers.items()}
            records.append(record)
        return records


class SegmentMetrics(DetMetrics):
    """The metrics of a segmenter: box and seg."""

    task, parts, matches = "segment", {"box": "B", "seg": "M"}, ("tp", "tp_m")


class PoseMetrics(DetMetrics):
    """The metrics of a finder of keypoints: box and pose."""

    task, parts, matches = "pose", {"box": "B", "pose": "P"}, ("tp", "tp_p")


class OBBMetrics(DetMetrics):
    """The metrics of a detector of oriented boxes."""

    task = "obb"


class ClassifyMetrics:
    """The metrics of a classifier: top1 and top5, the shares of images whose class is the first or among five."""

    task = "classify"
    keys = ["metrics/accuracy_top1", "metrics/accuracy_top5"]
    curves: list[str] = []
    curves_results: list[list[Any]] = []

    def __init__(self) -> None:
        self.top1 = self.top5 = 0.0
        self.speed = dict.fromkeys(("preprocess", "inference", "loss", "postprocess"), 0.0)

    def process(self, targets: Sequence[Tensor], pred: Sequence[Tensor]) -> None:
        """Compare classes by falling score (b, k) of each batch with the true classes (b,)."""
        ranked, truth = torch.cat(list(pred)), torch.cat(list(targets))
        hits = (ranked == truth[:, None].to(ranked)).float()
        self.top1, self.top5 = float(hits[:, 0].mean()), float(hits[:, :5].amax(1).mean())

    @property
    def fitness(self) -> float:
        """The mean of top1 and top5."""
        return (self.top1 + self.top5) / 2

    @property
    def results_dict(self) -> dict[str, float]:
        """The numbers by name, and fitness."""
        return {**dict(zip(self.keys, (self.top1, self.top5), strict=True)), "fitness": self.fitness}

    def summary(self, normalize: bool = True, decimals: int = 5) -> list[dict[str, float]]:
        """Return one dict with both numbers, rounded."""
        return [{"top1_acc": round(self.top1, decimals), "top5_acc": round(self.top5, decimals)}]


def _array(value: Any) -> Any:
    """Return a tensor as an array in the CPU's memory, and anything else unchanged."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
