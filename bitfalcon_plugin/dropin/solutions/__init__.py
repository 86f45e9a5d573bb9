"""Counting, heat maps and speeds of tracked objects, under the names of the wider package: adapters over supervision.

`obj = ObjectCounter(model="best.pt", region=[(20, 400), (1080, 400)])` and `result = obj(frame)` for each frame.
"""

from ..refused import refused
from .heatmap import Heatmap
from .object_blurrer import ObjectBlurrer
from .object_counter import ObjectCounter
from .object_cropper import ObjectCropper
from .queue_management import QueueManager
from .region_counter import RegionCounter
from .solutions import BaseSolution, SolutionResults
from .speed_estimation import SpeedEstimator

_FRAMES = "Take YOLO('best.pt').track(frame, persist=True) and"
# Names that are not here: what each is, and the nearest way.
_NOT_HERE = {
    "AIGym": ("counting of exercises by angles of limbs", f"{_FRAMES} the angles of result.keypoints."),
    "Analytics": ("line and bar charts of counts", f"{_FRAMES} matplotlib with the counts of result.boxes.cls."),
    "DistanceCalculation": ("distances between objects", f"{_FRAMES} the distances of result.boxes.xywh."),
    "InstanceSegmentation": ("masks drawn on frames", f"{_FRAMES} result.plot(), or supervision.MaskAnnotator."),
    "Inference": ("a page in the browser", "bitfalcon predict source=0 show=True shows a webcam."),
    "ParkingManagement": ("counting of free places", "RegionCounter(region={...}) counts the objects of each polygon."),
    "ParkingPtsSelection": ("a window to draw polygons", "supervision.PolygonZone takes the corners from any editor."),
    "SearchApp": (
        "a search over images by text",
        "It needs another kind of model; YOLO('best.pt').embed gives vectors.",
    ),
    "SecurityAlarm": ("mails about detections", "Nothing is sent from here: send it when len(result.boxes) says so."),
    "TrackZone": (
        "tracking in a part of the frame",
        "supervision.PolygonZone(...).trigger says which objects are inside.",
    ),
    "VisionEye": ("lines from a point to objects", f"{_FRAMES} supervision's annotators."),
    "VisualAISearch": (
        "a search over images by text",
        "It needs another kind of model; YOLO('best.pt').embed gives vectors.",
    ),
}
globals().update({name: refused(f"solutions.{name}", *texts, __name__) for name, texts in _NOT_HERE.items()})

__all__ = [
    "BaseSolution",
    "Heatmap",
    "ObjectBlurrer",
    "ObjectCounter",
    "ObjectCropper",
    "QueueManager",
    "RegionCounter",
    "SolutionResults",
    "SpeedEstimator",
    *_NOT_HERE,
]
