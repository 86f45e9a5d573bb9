"""Detections in the form that COCO's files and programs take. Here nothing of pycocotools is imported."""

from __future__ import annotations

import numpy as np
import torch

from ..ops.instances import Instances


def coco_rows(detections: Instances) -> np.ndarray:
    """Return detections as pycocotools takes them: (n, 7) float64 image, x, y, width, height, score, class."""
    boxes = detections.boxes
    columns = (detections.image[:, None], boxes[:, :2], boxes[:, 2:] - boxes[:, :2], detections.scores[:, None])
    return torch.cat([column.double() for column in (*columns, detections.classes[:, None])], dim=1).cpu().numpy()
