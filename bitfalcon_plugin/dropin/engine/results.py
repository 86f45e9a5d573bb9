"""The results of images, by the names of the wider package: `Results` and the classes of its parts."""

from __future__ import annotations

from ...predict.detections import OBB, Boxes
from ...predict.keypoints import Keypoints
from ...predict.masks import Masks
from ...predict.parts import Part as BaseTensor
from ...predict.probs import Probs
from ...predict.results import Results

__all__ = ["OBB", "BaseTensor", "Boxes", "Keypoints", "Masks", "Probs", "Results"]
