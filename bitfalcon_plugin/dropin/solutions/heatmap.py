"""Shows where objects have been."""

from __future__ import annotations

from typing import Any

import numpy as np

from .object_counter import ObjectCounter
from .solutions import SolutionResults


class Heatmap(ObjectCounter):
    """Heat at the centres of boxes, by supervision's HeatMapAnnotator. With region= crossings are counted too.

    colormap: a number of OpenCV (cv2.COLORMAP_PARULA, ...) for the colours of the heat.
    """

    OPACITY = 0.5

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.colormap = self.CFG["colormap"]
        self._annotator: Any = None

    def process(self, im0: np.ndarray) -> SolutionResults:
        result, detections = self.find(im0)
        picture = self._heat(im0, detections)
        if self.CFG["region"] is not None:
            picture = self.count_in(detections, picture)
        return self.summary(result, picture, **self.counts)

    def _heat(self, im0: np.ndarray, detections: Any) -> np.ndarray:
        """Add the heat of a frame, and return the frame with all heat so far."""
        import cv2
        import supervision as sv

        if self._annotator is None:
            radius = max(round(sum(im0.shape[:2]) * 0.02), 2)
            self._annotator = sv.HeatMapAnnotator(sv.Position.CENTER, opacity=self.OPACITY, radius=radius)
        picture = self._annotator.annotate(im0.copy(), detections)
        heat = self._annotator.heat_mask
        if self.colormap is None or heat is None or not heat.max():
            return picture
        share = cv2.blur(heat / heat.max(), (25, 25))[..., None]  # (H, W, 1) in [0, 1]
        colours = cv2.applyColorMap((share * 255).astype(np.uint8), self.colormap)
        opacity = self.OPACITY * (share > 0)
        return (im0 * (1 - opacity) + colours * opacity).round().astype(np.uint8)

    def generate_heatmap(self, im0: np.ndarray) -> np.ndarray:
        """Return the annotated frame, as older scripts call it."""
        return self(im0).plot_im
