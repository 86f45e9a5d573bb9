"""What a validation measured: COCO's numbers, the numbers of each class, curves and the confusion matrix.

Metrics has the attributes of spec/interface.md section 10 for detection. Every AP and mAP comes from pycocotools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..config.tabular import Tabular
from .confusion import ConfusionMatrix
from .curves import Curves, harmonic_mean

SIZES = ("small", "medium", "large")
STATS = (
    "AP",
    "AP50",
    "AP75",
    *(f"AP{size}" for size in SIZES),
    "AR1",
    "AR10",
    "AR100",
    *(f"AR{size}" for size in SIZES),
)
COLUMNS = ("metrics/precision(B)", "metrics/recall(B)", "metrics/mAP50(B)", "metrics/mAP50-95(B)")
CLASS_COLUMNS = ("metrics/accuracy_top1", "metrics/accuracy_top5")
IOU_50, IOU_75 = 0, 5  # columns of BoxMetrics.all_ap


@dataclass(frozen=True)
class ClassCounts:
    """A class that has labels: the number of images with the class, and of its labels."""

    name: str
    images: int
    instances: int


class MeanOf:
    """An attribute of BoxMetrics: the mean of the numbers that `pick` takes; 0.0 where no class has labels."""

    def __init__(self, pick: Callable[[BoxMetrics], np.ndarray]):
        self.pick = pick

    def __get__(self, box: BoxMetrics, owner: type | None = None) -> float:
        return float(self.pick(box).mean()) if len(box.p) else 0.0


@dataclass(frozen=True, eq=False)
class BoxMetrics:
    """The numbers of the boxes as arrays over the c classes that have labels; all in [0, 1].

    p, r, f1 (c,): precision, recall and F1 at the confidence with the best mean F1. all_ap (c, 10): AP at IoU 0.50 to
    0.95. ap, ap50 (c,): its mean, and AP at IoU 0.50. ap_class_index (c,): the classes. nc: number of all classes.
    maps (nc,): AP of every class, the mean where a class has no labels.
    """

    p: np.ndarray
    r: np.ndarray
    all_ap: np.ndarray
    ap_class_index: np.ndarray
    nc: int

    mp = MeanOf(lambda box: box.p)
    mr = MeanOf(lambda box: box.r)
    mf1 = MeanOf(lambda box: box.f1)
    map = MeanOf(lambda box: box.all_ap)
    map50 = MeanOf(lambda box: box.all_ap[:, IOU_50])
    map75 = MeanOf(lambda box: box.all_ap[:, IOU_75])

    @property
    def f1(self) -> np.ndarray:
        return harmonic_mean(self.p, self.r)

    @property
    def ap(self) -> np.ndarray:
        return self.all_ap.mean(axis=1)

    @property
    def ap50(self) -> np.ndarray:
        return self.all_ap[:, IOU_50]

    @property
    def maps(self) -> np.ndarray:
        ap = dict(zip(self.ap_class_index.tolist(), self.ap, strict=True))
        return np.array([ap.get(index, self.map) for index in range(self.nc)])

    def mean_results(self) -> list[float]:
        """Return mp, mr, map50 and map."""
        return [getattr(self, name) for name in ("mp", "mr", "map50", "map")]

    def class_result(self, i: int) -> tuple[float, ...]:
        """Return precision, recall, AP50 and AP of the class ap_class_index[i]."""
        return tuple(column[i].item() for column in (self.p, self.r, self.ap50, self.ap))


@dataclass(eq=False, kw_only=True)  # not frozen: validators of scripts write their speed and their matrix into it
class TaskMetrics(Tabular):
    """What a validation of any task measured on one split, in [0, 1]. A task's class has the numbers."""

    names: Mapping[int, str]
    confusion_matrix: ConfusionMatrix
    losses: Mapping[str, float] | None = None  # by name, as in tasks.Task.losses
    speed: dict[str, float] = field(default_factory=dict)  # milliseconds an image
    save_dir: Path | None = None  # the run folder, where there is one
    conf: float = 0.0  # detections with a higher score were measured

    @property
    def fitness(self) -> float:
        """The best weights are those with the highest fitness."""
        raise NotImplementedError

    @property
    def keys(self) -> list[str]:
        """The column names of results.csv that `mean_results` belongs to."""
        raise NotImplementedError

    @property
    def headline(self) -> dict[str, float]:
        """The numbers that are told first, by name, the first being the main one."""
        raise NotImplementedError

    @property
    def main(self) -> float:
        """The first number of `headline`, which tasks.Task.measure names."""
        return next(iter(self.headline.values()))

    @property
    def results_dict(self) -> dict[str, float]:
        """The numbers under the column names of results.csv, and fitness."""
        return {**dict(zip(self.keys, self.mean_results(), strict=True)), "fitness": self.fitness}

    def as_dict(self) -> dict[str, object]:
        """Return what `val json=True` prints: all numbers, those of COCO, of each class, and the speed."""
        stats = getattr(self, "stats", None)
        counts = {key: getattr(self, key) for key in ("images", "instances") if hasattr(self, key)}
        return {
            "metrics": self.results_dict,
            **({} if stats is None else {"coco": stats}),
            **counts,
            "per_class": self.summary(),
            "losses": self.losses,
            "speed_ms": self.speed,
            "save_dir": None if self.save_dir is None else str(self.save_dir),
        }

    def mean_results(self) -> list[float]:
        """Return the numbers over all classes, in the order of `keys`."""
        raise NotImplementedError

    def get(self, key: str, default: object = None) -> object:
        """Return a number of `results_dict`, or `default`."""
        return self.results_dict.get(key, default)

    def line(self) -> str:
        """Return the line that training prints after an epoch."""
        raise NotImplementedError

    def table(self, verbose: bool = True) -> str:
        """Return the table people read; verbose: with a line for each class."""
        raise NotImplementedError

    def plot(self, save_dir: str | Path | None = None) -> list[Path]:
        """Draw charts into save_dir, by default the run folder or else the working directory; returns the paths."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.table()

    def _folder(self, save_dir: str | Path | None) -> Path:
        return Path(save_dir or self.save_dir or ".")

    def _matrices(self, folder: Path) -> list[Path]:
        """Draw both confusion matrices."""
        return [self.confusion_matrix.plot(normalize=normalize, save_dir=folder) for normalize in (False, True)]


@dataclass(eq=False)
class Metrics(TaskMetrics):
    """The numbers of detections on one split.

    stats: COCO's numbers, named as STATS; nan where there is nothing to measure, as for sizes without labels. classes:
    the classes that have labels; `box` holds the numbers of these, and `lines` their curves. letterbox: `box` with AP
    on the letterboxed input (tasks/letterbox_ap.py), where letterbox_ap=True asked for it.
    """

    stats: dict[str, float]
    classes: tuple[ClassCounts, ...]
    images: int
    instances: int
    box: BoxMetrics
    lines: Curves
    letterbox: BoxMetrics | None = None

    overlap: ClassVar[str] = "IoU"  # what the thresholds of AP are compared with

    @property
    def best_conf(self) -> float:
        """The confidence with the best mean F1, at which precision, recall and F1 are given."""
        return max(float(self.lines.grid[self.lines.best]), self.conf)  # below `conf` the curves only go on

    @property
    def precision(self) -> float:
        """Mean precision of the classes at `best_conf`."""
        return self.box.mp

    @property
    def recall(self) -> float:
        """Mean recall of the classes at `best_conf`."""
        return self.box.mr

    @property
    def ap(self) -> float:
        """Mean AP over IoU 0.50 to 0.95; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.stats["AP"]))

    @property
    def ap50(self) -> float:
        """AP at IoU 0.50; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.stats["AP50"]))

    @property
    def fitness(self) -> float:
        """0.1 AP50 + 0.9 AP: the best weights are those with the highest fitness."""
        return 0.1 * self.ap50 + 0.9 * self.ap

    @property
    def keys(self) -> list[str]:
        """The column names of results.csv that `mean_results` belongs to."""
        return list(COLUMNS)

    @property
    def headline(self) -> dict[str, float]:
        """AP and AP50 of the boxes; 0 where nothing could be measured."""
        return {"AP": self.ap, "AP50": self.ap50}

    @property
    def maps(self) -> np.ndarray:
        """The AP (nc,) of every class; the mean where a class has no labels."""
        return self.box.maps

    @property
    def ap_class_index(self) -> np.ndarray:
        """The classes (c,) that have labels."""
        return self.box.ap_class_index

    @property
    def curves(self) -> list[str]:
        """The names of `curves_results`, in its order."""
        return ["Precision-Recall(B)", *(f"{name}-Confidence(B)" for name in ("F1", "Precision", "Recall"))]

    @property
    def curves_results(self) -> list[list[object]]:
        """For each name in `curves`: abscissas (1000,), curves (c, 1000) of the classes with labels, two axis names."""
        return self._curves_of(self.lines)

    @staticmethod
    def _curves_of(lines: Curves) -> list[list[object]]:
        grid = lines.grid
        over_confidence = {"F1": lines.f1, "Precision": lines.precision, "Recall": lines.recall}
        curves = [[grid, values, "Confidence", name] for name, values in over_confidence.items()]
        return [[grid, lines.envelope, "Recall", "Precision"], *curves]

    def mean_results(self) -> list[float]:
        """Return precision, recall, AP50 and AP over all classes."""
        return [self.precision, self.recall, self.ap50, self.ap]

    def class_result(self, i: int) -> tuple[float, ...]:
        """Return precision, recall, AP50 and AP of the class ap_class_index[i]."""
        return self.box.class_result(i)

    def columns(self, flat: bool = False) -> Sequence[str]:
        return "Class", "Images", "Instances", "Box-P", "Box-R", "Box-F1", "mAP50", "mAP75", "mAP50-95"

    def summary(self, normalize: bool = True, decimals: int = 5) -> list[dict[str, object]]:
        """Return a dict for each class that has labels: name, counts and rounded numbers. normalize: without effect."""
        records, ap75 = [], self.box.all_ap[:, IOU_75].tolist()
        for counts, numbers, at_75 in zip(self.classes, self._numbers(), ap75, strict=True):
            numbers = (*numbers[:4], at_75, numbers[4])
            values = (counts.name, counts.images, counts.instances, *(round(number, decimals) for number in numbers))
            records.append(dict(zip(Metrics.columns(self), values, strict=True)))
        return records

    def line(self) -> str:
        """Return the line that training prints after an epoch."""
        return f"AP {self.ap:.4f}  AP50 {self.ap50:.4f}  P {self.precision:.3f}  R {self.recall:.3f}"

    def _numbers(self) -> list[tuple[float, ...]]:
        """Precision, recall, F1, AP50 and AP of each class."""
        box = self.box
        return list(zip(*(column.tolist() for column in (box.p, box.r, box.f1, box.ap50, box.ap)), strict=True))

    def plot(self, save_dir: str | Path | None = None) -> list[Path]:
        """Draw the curves and both confusion matrices; returns the paths.

        save_dir: the folder of the pictures, by default the run folder, and the working directory where there is none.
        Raises UserError without matplotlib.
        """
        from ..plots.charts import draw_curves

        folder = self._folder(save_dir)
        names = [self.names[index] for index in self.ap_class_index.tolist()]
        paths = draw_curves(folder, self.curves_results, names, self.box.ap50.tolist(), self.ap50, self.lines.best)
        return [*paths, *self._matrices(folder)]

    def table(self, verbose: bool = True) -> str:
        """Return the table people read: a line for all classes, a line for each class, and COCO's numbers by size.

        verbose: show the classes, unless there is only one.
        """
        lines = [f"{'Class':>22}{'Images':>9}{'Instances':>11}{'P':>9}{'R':>9}{'F1':>9}{'AP50':>9}{'AP50-95':>9}"]

        def add(counts: ClassCounts, numbers: Sequence[float]) -> None:
            columns = "".join(f"{number:>9.3f}" for number in numbers)
            lines.append(f"{counts.name[:21]:>22}{counts.images:>9}{counts.instances:>11}{columns}")

        means = self.precision, self.recall, self.box.mf1, self.ap50, self.ap
        add(ClassCounts("all", self.images, self.instances), means)
        if verbose and len(self.classes) > 1:
            for counts, numbers in zip(self.classes, self._numbers(), strict=True):
                add(counts, numbers)
        if self.classes:
            where = f"{self.overlap} 0.50 and confidence {self.best_conf:.3f}"
            lines.append(f"P, R and F1 at {where}, where the mean F1 of the classes is best")
        by = "" if self.overlap == "IoU" else f" by {self.overlap}"
        lines.append(f"COCO (pycocotools){by}: " + "  ".join(f"{name} {self.stats[name]:.3f}" for name in STATS[:6]))
        if self.letterbox is not None:
            numbers = f"AP {self.letterbox.map:.3f}  AP50 {self.letterbox.map50:.3f}  AP75 {self.letterbox.map75:.3f}"
            lines.append(f"On the letterboxed input, boxes not cut at the image's edge (not COCO's): {numbers}")
        return "\n".join(lines)
