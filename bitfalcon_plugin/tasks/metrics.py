"""What a validation measured: COCO numbers, a row for each class, curves and the confusion matrix.

The attributes of spec/interface.md section 10 for detection. Nothing called AP or mAP comes from anywhere but pycocotools.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config.errors import UserError
from .curves import ConfusionMatrix, Curves

STATS = (
    "AP",
    "AP50",
    "AP75",
    "APsmall",
    "APmedium",
    "APlarge",
    "AR1",
    "AR10",
    "AR100",
    "ARsmall",
    "ARmedium",
    "ARlarge",
)


COLUMNS = ("metrics/precision(B)", "metrics/recall(B)", "metrics/mAP50(B)", "metrics/mAP50-95(B)")


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table: images with the class, its labels, and its numbers in [0, 1]."""

    name: str
    images: int
    instances: int
    precision: float
    recall: float
    ap50: float
    ap: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / (self.precision + self.recall + 1e-16)


@dataclass(frozen=True, eq=False)
class BoxMetrics:
    """The numbers of the boxes as arrays over the c classes that have labels; all in [0, 1].

    p, r, f1 (c,): precision, recall and F1 at the confidence with the best mean F1. all_ap (c, 10): AP at IoU 0.50 to 0.95.
    ap_class_index (c,): which class a row is. maps (nc,): AP of every class, the mean where a class has no labels.
    """

    p: np.ndarray
    r: np.ndarray
    all_ap: np.ndarray
    ap_class_index: np.ndarray
    nc: int

    @property
    def f1(self) -> np.ndarray:
        return 2 * self.p * self.r / (self.p + self.r + 1e-16)

    @property
    def ap50(self) -> np.ndarray:
        return self.all_ap[:, 0]

    @property
    def ap(self) -> np.ndarray:
        return self.all_ap.mean(1)

    @property
    def mp(self) -> float:
        return _mean(self.p)

    @property
    def mr(self) -> float:
        return _mean(self.r)

    @property
    def map50(self) -> float:
        return _mean(self.all_ap[:, 0])

    @property
    def map75(self) -> float:
        return _mean(self.all_ap[:, 5])

    @property
    def map(self) -> float:
        return _mean(self.all_ap)

    @property
    def maps(self) -> np.ndarray:
        found = np.full(self.nc, self.map)
        found[self.ap_class_index] = self.ap
        return found

    def mean_results(self) -> list[float]:
        """mp, mr, map50 and map."""
        return [self.mp, self.mr, self.map50, self.map]

    def class_result(self, i: int) -> tuple[float, float, float, float]:
        """Precision, recall, AP50 and AP of the class ap_class_index[i]."""
        return float(self.p[i]), float(self.r[i]), float(self.ap50[i]), float(self.ap[i])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


@dataclass(frozen=True, eq=False)
class Metrics:
    """COCO numbers of one split, in [0, 1] (nan where there is nothing to measure, as for sizes without labels).

    classes: a row for each class that has labels, `box` the same as arrays. lines: the curves of those classes.
    save_dir: the run folder, where there is one. conf: detections above it were measured.
    """

    stats: dict[str, float]
    classes: tuple[ClassRow, ...]
    images: int
    instances: int
    precision: float
    recall: float
    box: BoxMetrics
    lines: Curves
    confusion_matrix: ConfusionMatrix
    names: Mapping[int, str]
    losses: Mapping[str, float] | None = None  # by name, as in tasks.Task.losses
    speed: dict[str, float] = field(default_factory=dict)  # milliseconds an image
    save_dir: Path | None = None
    conf: float = 0.0

    @property
    def best_conf(self) -> float:
        """The confidence with the best mean F1, at which precision, recall and F1 are given."""
        return max(float(self.lines.grid[self.lines.best]), self.conf)  # below `conf` the curves only go on

    @property
    def fitness(self) -> float:
        """0.1 AP50 + 0.9 AP, by which the best weights are chosen."""
        return 0.1 * self.ap50 + 0.9 * self.ap

    @property
    def ap(self) -> float:
        """Mean AP over IoU 0.50 to 0.95; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.stats["AP"]))

    @property
    def ap50(self) -> float:
        """AP at IoU 0.50; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.stats["AP50"]))

    @property
    def keys(self) -> list[str]:
        """The column names of results.csv that `mean_results` belongs to."""
        return list(COLUMNS)

    @property
    def results_dict(self) -> dict[str, float]:
        """The numbers under the column names of results.csv, and fitness."""
        return {**dict(zip(COLUMNS, self.mean_results(), strict=True)), "fitness": self.fitness}

    @property
    def maps(self) -> np.ndarray:
        """(nc,) AP of every class; the mean where a class has no labels."""
        return self.box.maps

    @property
    def ap_class_index(self) -> np.ndarray:
        """(c,) the classes that have labels."""
        return self.box.ap_class_index

    @property
    def curves(self) -> list[str]:
        """What `curves_results` holds, in its order."""
        return ["Precision-Recall(B)", "F1-Confidence(B)", "Precision-Confidence(B)", "Recall-Confidence(B)"]

    @property
    def curves_results(self) -> list[list[object]]:
        """For each name in `curves`: abscissas (1000,), curves (c, 1000) of the classes with labels, and the axes' names."""
        grid = self.lines.grid
        return [
            [grid, self.lines.envelope, "Recall", "Precision"],
            [grid, self.lines.f1, "Confidence", "F1"],
            [grid, self.lines.precision, "Confidence", "Precision"],
            [grid, self.lines.recall, "Confidence", "Recall"],
        ]

    def mean_results(self) -> list[float]:
        """Precision, recall, AP50 and AP over all classes."""
        return [self.precision, self.recall, self.ap50, self.ap]

    def class_result(self, i: int) -> tuple[float, float, float, float]:
        """Precision, recall, AP50 and AP of the class ap_class_index[i]."""
        row = self.classes[i]
        return row.precision, row.recall, row.ap50, row.ap

    def summary(self, decimals: int = 5) -> list[dict[str, object]]:
        """A dict for each class that has labels: index, counts and rounded numbers."""
        f1 = self.box.f1.tolist()
        return [
            {
                "name": row.name,
                "class": int(index),
                "images": row.images,
                "instances": row.instances,
                "precision": round(row.precision, decimals),
                "recall": round(row.recall, decimals),
                "f1": round(f1[i], decimals),
                "ap50": round(row.ap50, decimals),
                "ap": round(row.ap, decimals),
            }
            for i, (index, row) in enumerate(zip(self.ap_class_index, self.classes, strict=True))
        ]

    def to_json(self, decimals: int = 5) -> str:
        """`summary` as JSON."""
        return json.dumps(self.summary(decimals), ensure_ascii=False)

    def to_csv(self, decimals: int = 5) -> str:
        """`summary` as CSV text with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("name", "class", "images", "instances", "precision", "recall", "f1", "ap50", "ap"))
        writer.writerows(row.values() for row in self.summary(decimals))
        return text.getvalue()

    def to_df(self, decimals: int = 5):
        """`summary` as a pandas DataFrame. Raises UserError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise UserError(
                "to_df() needs pandas: pip install pandas. summary(), to_csv(), to_json() do without."
            ) from error
        return pandas.DataFrame(self.summary(decimals))

    def plot(self, save_dir: str | Path | None = None) -> list[Path]:
        """Draw the curves and both confusion matrices into save_dir (default: the run folder, else here); returns the paths.

        Raises UserError without matplotlib.
        """
        from ..plots.charts import draw_curves

        folder = Path(save_dir or self.save_dir or ".")
        names = [self.names[index] for index in self.ap_class_index.tolist()]
        drawn = draw_curves(folder, self.curves_results, names, self.box.ap50.tolist(), self.ap50, self.lines.best)
        return [
            *drawn,
            *(self.confusion_matrix.plot(normalize=normalize, save_dir=folder) for normalize in (False, True)),
        ]

    def table(self, verbose: bool = True) -> str:
        """The table people read: all classes (means), one row a class, where P, R and F1 are taken, the COCO numbers by size."""
        head = f"{'Class':>22}{'Images':>9}{'Instances':>11}{'P':>9}{'R':>9}{'F1':>9}{'AP50':>9}{'AP50-95':>9}"
        means = self.precision, self.recall, _mean(self.box.f1), self.ap50, self.ap
        rows = [("all", self.images, self.instances, *means)]
        if verbose and len(self.classes) > 1:
            rows += [(r.name, r.images, r.instances, r.precision, r.recall, r.f1, r.ap50, r.ap) for r in self.classes]
        lines = [
            head,
            *(
                f"{name[:21]:>22}{images:>9}{instances:>11}" + "".join(f"{value:>9.3f}" for value in values)
                for name, images, instances, *values in rows
            ),
        ]
        if self.classes:
            lines.append(
                f"P, R and F1 at IoU 0.50 and confidence {self.best_conf:.3f}, where the mean F1 of the classes is best"
            )
        lines.append("COCO (pycocotools): " + "  ".join(f"{name} {self.stats[name]:.3f}" for name in STATS[:6]))
        return "\n".join(lines)
