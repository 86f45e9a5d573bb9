"""The numbers of a validation in which each object has a box and a part beside it: its mask, or its keypoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from .curves import Curves
from .metrics import COLUMNS, STATS, BoxMetrics, Metrics


class PartMetrics(Metrics):
    """Metrics of the boxes, and the same numbers of the parts: part, part_stats and part_lines are what box, stats and
    lines are.

    letter: of the parts in the names of columns and curves. prefix: in the names of pictures and of a summary's
    columns. title: of the parts in the table. compared: by what, in the last line of the table.
    """

    letter: ClassVar[str]
    prefix: ClassVar[str]
    title: ClassVar[str]
    compared: ClassVar[str]

    @property
    def part(self) -> BoxMetrics:
        raise NotImplementedError

    @property
    def part_stats(self) -> Mapping[str, float]:
        raise NotImplementedError

    @property
    def part_lines(self) -> Curves:
        raise NotImplementedError

    @property
    def part_ap(self) -> float:
        """Mean AP of the parts over the thresholds 0.50 to 0.95; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.part_stats["AP"]))

    @property
    def part_ap50(self) -> float:
        """AP of the parts at the threshold 0.50; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.part_stats["AP50"]))

    @property
    def fitness(self) -> float:
        """The sum of 0.1 AP50 + 0.9 AP of the boxes and of the parts, up to 2."""
        return super().fitness + 0.1 * self.part_ap50 + 0.9 * self.part_ap

    @property
    def keys(self) -> list[str]:
        """The column names of results.csv that `mean_results` belongs to."""
        return [*super().keys, *part_columns(self.letter)]

    @property
    def headline(self) -> dict[str, float]:
        """AP and AP50 of the boxes and of the parts; 0 where nothing could be measured."""
        return {**super().headline, f"{self.title} AP": self.part_ap, f"{self.title} AP50": self.part_ap50}

    @property
    def maps(self) -> np.ndarray:
        """The sum of the APs (nc,) of boxes and parts of every class; the mean where a class has no labels."""
        return self.box.maps + self.part.maps

    @property
    def curves(self) -> list[str]:
        """The names of `curves_results`, in its order."""
        return [*super().curves, *(name.replace("(B)", f"({self.letter})") for name in super().curves)]

    @property
    def curves_results(self) -> list[list[object]]:
        """For each name in `curves`: abscissas (1000,), curves (c, 1000) of the classes with labels, two axis names."""
        return [*super().curves_results, *self._curves_of(self.part_lines)]

    def mean_results(self) -> list[float]:
        """Return precision, recall, AP50 and AP over all classes, of the boxes and then of the parts."""
        return [*super().mean_results(), self.part.mp, self.part.mr, self.part_ap50, self.part_ap]

    def class_result(self, i: int) -> tuple[float, ...]:
        """Return precision, recall, AP50 and AP of the class ap_class_index[i], of boxes and then of parts."""
        precision, recall, _, ap50, ap = self._part_numbers()[i]
        return *super().class_result(i), precision, recall, ap50, ap

    def columns(self, flat: bool = False) -> Sequence[str]:
        return *super().columns(flat), *self._number_names()

    def summary(self, normalize: bool = True, decimals: int = 5) -> list[dict[str, object]]:
        """Return a dict for each class that has labels, with the numbers of the parts behind those of the boxes."""
        records = super().summary(normalize, decimals)
        for record, numbers in zip(records, self._part_numbers(), strict=True):
            record.update(zip(self._number_names(), (round(number, decimals) for number in numbers), strict=True))
        return records

    def _number_names(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}-{name}" for name in ("P", "R", "F1", "mAP50", "mAP50-95"))

    def _part_numbers(self) -> list[tuple[float, ...]]:
        """Precision, recall, F1, AP50 and AP of the parts of each of `classes`; nan where no label has such a part."""
        part = self.part
        numbers = zip(*(column.tolist() for column in (part.p, part.r, part.f1, part.ap50, part.ap)), strict=True)
        known = dict(zip(part.ap_class_index.tolist(), numbers, strict=True))
        return [known.get(index, (math.nan,) * 5) for index in self.ap_class_index.tolist()]

    def plot(self, save_dir: str | Path | None = None) -> list[Path]:
        """Draw the curves of boxes and parts and both confusion matrices; see Metrics.plot."""
        from ..plots.charts import draw_curves

        folder = self._folder(save_dir)
        curves, paths = self.curves_results, []
        for prefix, part, ap50, lines, part_curves in (
            ("Box", self.box, self.ap50, self.lines, curves[:4]),
            (self.prefix, self.part, self.part_ap50, self.part_lines, curves[4:]),
        ):
            names = [self.names[index] for index in part.ap_class_index.tolist()]
            paths += draw_curves(folder, part_curves, names, part.ap50.tolist(), ap50, lines.best, prefix)
        return [*paths, *self._matrices(folder)]

    def line(self) -> str:
        """Return the line that training prints after an epoch."""
        return f"{super().line()}  {self.title.lower()}: AP {self.part_ap:.4f}  AP50 {self.part_ap50:.4f}"

    def table(self, verbose: bool = True) -> str:
        """Return the table people read: that of the boxes, and below it the lines of the parts."""
        head = f"{self.title:>22}{'':>20}{'P':>9}{'R':>9}{'F1':>9}{'AP50':>9}{'AP50-95':>9}"
        rows = [("all", (self.part.mp, self.part.mr, self.part.mf1, self.part_ap50, self.part_ap))]
        if verbose and len(self.classes) > 1:
            rows += zip((counts.name for counts in self.classes), self._part_numbers(), strict=True)
        lines = [f"{name[:21]:>22}{'':>20}" + "".join(f"{number:>9.3f}" for number in row) for name, row in rows]
        stats = "  ".join(f"{name} {self.part_stats[name]:.3f}" for name in STATS[:6])
        return "\n".join([super().table(verbose), head, *lines, f"COCO of the {self.compared}: {stats}"])


def part_columns(letter: str) -> tuple[str, ...]:
    """The columns of results.csv of the parts with a letter."""
    return tuple(column.replace("(B)", f"({letter})") for column in COLUMNS)
