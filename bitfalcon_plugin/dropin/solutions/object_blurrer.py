"""Makes objects unrecognisable."""

from __future__ import annotations

import numpy as np

from ...config.errors import UserError
from .solutions import BaseSolution, SolutionResults


class ObjectBlurrer(BaseSolution):
    """blur_ratio: from 0.1 to 1, how strong: the side of supervision's blur is 100 times as many pixels."""

    def process(self, im0: np.ndarray) -> SolutionResults:
        import supervision as sv

        ratio = self.CFG["blur_ratio"]
        if not isinstance(ratio, (int, float)) or not 0.01 <= ratio <= 10:
            raise UserError(f"ObjectBlurrer(blur_ratio={ratio!r}): expected a number from 0.1 to 1, for example 0.5.")
        result, detections = self.find(im0)
        blurred = sv.BlurAnnotator(kernel_size=max(int(ratio * 100), 1)).annotate(im0.copy(), detections)
        style = {"boxes": self.CFG["show_boxes"], "labels": self.CFG["show_labels"], "conf": self.CFG["show_conf"]}
        return self.summary(result, result.plot(img=blurred, line_width=self.line_width, **style))
