"""The numbers of a validation of masks: those of the boxes, and the same numbers of the masks beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .curves import Curves
from .metrics import MASK_COLUMNS, STATS, BoxMetrics, Metrics

MASK_NUMBERS = ("Mask-P", "Mask-R", "Mask-F1", "Mask-mAP50", "Mask-mAP50-95")  # further columns of a summary


@dataclass(eq=False)
class SegmentMetrics(Metrics):
    """Metrics of the boxes, and of the masks: seg, mask_stats and mask_lines are what box, stats and lines are.

    Masks are compared in the size of the original images with the polygons of the labels, by pycocotools.
    """

    seg: BoxMetrics | None = None
    mask_stats: Mapping[str, float] | None = None
    mask_lines: Curves | None = None

    @property
    def mask_ap(self) -> float:
        """Mean AP of the masks over IoU 0.50 to 0.95; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.mask_stats["AP"]))

    @property
    def mask_ap50(self) -> float:
        """AP of the masks at IoU 0.50; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.mask_stats["AP50"]))

    @property
    def fitness(self) -> float:
        """The sum of 0.1 AP50 + 0.9 AP of the boxes and of the masks, up to 2."""
        return super().fitness + 0.1 * self.mask_ap50 + 0.9 * self.mask_ap

    @property
    def keys(self) -> list[str]:
        """The column names of results.csv that `mean_results` belongs to."""
        return [*super().keys, *MASK_COLUMNS]

    @property
    def maps(self) -> np.ndarray:
        """The sum of the APs (nc,) of boxes and masks of every class; the mean where a class has no labels."""
        return self.box.maps + self.seg.maps

    @property
    def curves(self) -> list[str]:
        """The names of `curves_results`, in its order."""
        return [*super().curves, *(name.replace("(B)", "(M)") for name in super().curves)]

    @property
    def curves_results(self) -> list[list[object]]:
        """For each name in `curves`: abscissas (1000,), curves (c, 1000) of the classes with labels, two axis names."""
        return [*super().curves_results, *self._curves_of(self.mask_lines)]

    def mean_results(self) -> list[float]:
        """Return precision, recall, AP50 and AP over all classes, of the boxes and then of the masks."""
        return [*super().mean_results(), self.seg.mp, self.seg.mr, self.mask_ap50, self.mask_ap]

    def class_result(self, i: int) -> tuple[float, ...]:
        """Return precision, recall, AP50 and AP of the class ap_class_index[i], of boxes and then of masks."""
        precision, recall, _, ap50, ap = self._mask_numbers()[i]
        return *super().class_result(i), precision, recall, ap50, ap

    def columns(self, flat: bool = False) -> Sequence[str]:
        return *super().columns(flat), *MASK_NUMBERS

    def summary(self, normalize: bool = True, decimals: int = 5) -> list[dict[str, object]]:
        """Return a dict for each class that has labels, with the numbers of the masks behind those of the boxes."""
        records = super().summary(normalize, decimals)
        for record, numbers in zip(records, self._mask_numbers(), strict=True):
            record.update(zip(MASK_NUMBERS, (round(number, decimals) for number in numbers), strict=True))
        return records

    def _mask_numbers(self) -> list[tuple[float, ...]]:
        """Precision, recall, F1, AP50 and AP of the masks of each of `classes`; nan where no label has an outline."""
        seg = self.seg
        numbers = zip(*(column.tolist() for column in (seg.p, seg.r, seg.f1, seg.ap50, seg.ap)), strict=True)
        known = dict(zip(seg.ap_class_index.tolist(), numbers, strict=True))
        return [known.get(index, (math.nan,) * 5) for index in self.ap_class_index.tolist()]

    def plot(self, save_dir: str | Path | None = None) -> list[Path]:
        """Draw the curves of boxes and masks and both confusion matrices; see Metrics.plot."""
        from ..plots.charts import draw_curves

        folder = self._folder(save_dir)
        curves, paths = self.curves_results, []
        for prefix, part, ap50, lines, part_curves in (
            ("Box", self.box, self.ap50, self.lines, curves[:4]),
            ("Mask", self.seg, self.mask_ap50, self.mask_lines, curves[4:]),
        ):
            names = [self.names[index] for index in part.ap_class_index.tolist()]
            paths += draw_curves(folder, part_curves, names, part.ap50.tolist(), ap50, lines.best, prefix)
        return [*paths, *self._matrices(folder)]

    def table(self, verbose: bool = True) -> str:
        """Return the table people read: that of the boxes, and below it the lines of the masks."""
        lines = [super().table(verbose), f"{'Masks':>22}{'':>20}{'P':>9}{'R':>9}{'F1':>9}{'AP50':>9}{'AP50-95':>9}"]
        rows = [("all", (self.seg.mp, self.seg.mr, self.seg.mf1, self.mask_ap50, self.mask_ap))]
        if verbose and len(self.classes) > 1:
            rows += zip((counts.name for counts in self.classes), self._mask_numbers(), strict=True)
        lines += [f"{name[:21]:>22}{'':>20}" + "".join(f"{number:>9.3f}" for number in row) for name, row in rows]
        stats = "  ".join(f"{name} {self.mask_stats[name]:.3f}" for name in STATS[:6])
        return "\n".join([*lines, f"COCO of the masks (pycocotools): {stats}"])
