"""The numbers of a validation of masks: those of the boxes, and the same numbers of the masks beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .curves import Curves
from .metrics import BoxMetrics
from .part_metrics import PartMetrics


@dataclass(eq=False)
class SegmentMetrics(PartMetrics):
    """Metrics of the boxes, and of the masks: seg, mask_stats and mask_lines are what box, stats and lines are.

    Masks are compared in the size of the original images with the polygons of the labels, by pycocotools.
    """

    seg: BoxMetrics | None = None
    mask_stats: Mapping[str, float] | None = None
    mask_lines: Curves | None = None

    letter: ClassVar[str] = "M"
    prefix: ClassVar[str] = "Mask"
    title: ClassVar[str] = "Masks"
    compared: ClassVar[str] = "masks (pycocotools)"

    @property
    def part(self) -> BoxMetrics:
        return self.seg

    @property
    def part_stats(self) -> Mapping[str, float]:
        return self.mask_stats

    @property
    def part_lines(self) -> Curves:
        return self.mask_lines

    @property
    def mask_ap(self) -> float:
        """Mean AP of the masks over IoU 0.50 to 0.95; 0 where nothing could be measured."""
        return self.part_ap

    @property
    def mask_ap50(self) -> float:
        """AP of the masks at IoU 0.50; 0 where nothing could be measured."""
        return self.part_ap50
