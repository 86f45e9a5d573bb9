"""Writes each detection as an image of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...plots.drawing import picture_of
from ...predict.pictures import write_picture
from .solutions import BaseSolution, SolutionResults


class ObjectCropper(BaseSolution):
    """crop_dir: the folder of crop_1.jpg, crop_2.jpg, ... It is made where it is missing; ids are not needed."""

    tracked = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.crop_dir, self.crop_idx = Path(self.CFG["crop_dir"]), 0

    def process(self, im0: np.ndarray) -> SolutionResults:
        import supervision as sv

        result, detections = self.find(im0)
        for box in detections.xyxy:
            part = sv.crop_image(im0, box)
            if part.size:
                self.crop_idx += 1
                write_picture(picture_of(part), self.crop_dir / f"crop_{self.crop_idx}.jpg")
        return self.summary(result, self.draw(result), total_crop_objects=self.crop_idx)
