"""What the solutions share: keywords, tracking, the picture, and the results of a frame (spec/dropin-helpers.md 12)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ...config.errors import UserError, did_you_mean
from ...config.notes import print_note
from ...predict.video import show_frame
from ...yolo import YOLO

# Keyword -> its default. Those that only solutions that are not here use are taken and do nothing.
KEYWORDS: dict[str, Any] = {
    "model": None,
    "region": None,
    "colormap": None,
    "show_in": True,
    "show_out": True,
    "blur_ratio": 0.5,
    "crop_dir": "cropped-detections",
    "line_width": 2,
    "fps": 30.0,
    "max_hist": 5,
    "meter_per_pixel": 0.05,
    "max_speed": 120,
    "show": False,
    "show_conf": True,
    "show_labels": True,
    "show_boxes": True,
    "verbose": True,
}
TRACKING = ("classes", "iou", "conf", "device", "max_det", "imgsz", "tracker", "half")  # given on to track
OTHERS = (*"source up_angle down_angle kpts analytics_type figsize vision_point json_file records data".split(),)
DEFAULTS_OF_TRACKING = {"conf": 0.25, "iou": 0.7}


class WrongKeywordError(UserError, ValueError):
    """A keyword that no solution has."""


@dataclass
class SolutionResults:
    """What a solution found in a frame. What it does not count is zero or empty.

    plot_im (H, W, 3): BGR uint8, the annotated frame. in_count, out_count: objects that have crossed so far.
    classwise_count: class name -> {"IN": n, "OUT": n}. region_counts: name of a region -> objects in it now.
    queue_count: objects in the region now. total_tracks: objects with an id now. total_crop_objects: crops written so
    far. speed_dict: id -> km/h, of the objects whose speed is known. speed: milliseconds of the stages of track.
    """

    plot_im: Any = None
    in_count: int = 0
    out_count: int = 0
    classwise_count: dict[str, dict[str, int]] = field(default_factory=dict)
    region_counts: dict[str, int] = field(default_factory=dict)
    queue_count: int = 0
    total_tracks: int = 0
    total_crop_objects: int = 0
    speed_dict: dict[int, float] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        known = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("plot_im", "speed")}
        return f"SolutionResults({', '.join(f'{name}={value}' for name, value in known.items() if value)})"


class BaseSolution:
    """Tracks the objects of frames that are given one by one. Call the object with a frame (H, W, 3) BGR uint8.

    Keywords: KEYWORDS, TRACKING and OTHERS. model: the path of a checkpoint or exported model, or a YOLO object.
    region: two points are a line, more are a polygon, in pixels. Raises WrongKeywordError (a ValueError) for others,
    and UserError where supervision is missing.
    """

    tracked = True  # whether the objects need ids

    def __init__(self, **kwargs: Any):
        known = (*KEYWORDS, *TRACKING, *OTHERS)
        if unknown := [name for name in kwargs if name not in known]:
            hint = did_you_mean(unknown[0], known)
            raise WrongKeywordError(f"{type(self).__name__}({unknown[0]}=...): there is no such keyword.{hint}")
        if importlib.util.find_spec("supervision") is None:
            raise UserError(f"{type(self).__name__} needs supervision: pip install 'bitfalcon[clients]'.")
        self.CFG = {**KEYWORDS, **DEFAULTS_OF_TRACKING, **kwargs}
        if self.CFG["model"] is None:
            raise UserError(f"{type(self).__name__} needs model=: a trained checkpoint, for example model='best.pt'.")
        self.model = self.CFG["model"] if isinstance(self.CFG["model"], YOLO) else YOLO(self.CFG["model"])
        self.names, self.region, self.line_width = self.model.names, self.CFG["region"], self.CFG["line_width"]
        self._noted = False

    def __call__(self, im0: np.ndarray) -> SolutionResults:
        """Return what is in the next frame, (H, W, 3) BGR uint8."""
        results = self.process(im0)
        if self.CFG["show"]:
            self.display_output(results.plot_im)
        return results

    def process(self, im0: np.ndarray) -> SolutionResults:
        """Track a frame and count; each solution has its own."""
        raise NotImplementedError(
            f"{type(self).__name__}.process: take one of the solutions, for example ObjectCounter."
        )

    def find(self, im0: np.ndarray) -> tuple[Any, Any]:
        """Return the Results of a frame, and the same as supervision.Detections."""
        import supervision

        settings = {name: self.CFG[name] for name in TRACKING if self.CFG.get(name) is not None}
        settings["verbose"] = bool(self.CFG["verbose"])
        if self.tracked:
            (result,) = self.model.track(im0, persist=True, **settings)
        else:
            settings.pop("tracker", None)
            (result,) = self.model.predict(im0, **settings)
        return result, supervision.Detections.from_ultralytics(result)

    def draw(self, result: Any) -> np.ndarray:
        """Return the frame (H, W, 3) BGR uint8 with boxes and ids."""
        style = {"boxes": self.CFG["show_boxes"], "labels": self.CFG["show_labels"], "conf": self.CFG["show_conf"]}
        return result.plot(line_width=self.line_width, **style)

    def summary(self, result: Any, picture: np.ndarray, **counts: Any) -> SolutionResults:
        """Return the results of a frame with its picture and counts."""
        tracks = len(result.boxes) if result.boxes.is_track else 0
        return SolutionResults(picture, total_tracks=tracks, speed=dict(result.speed), **counts)

    def display_output(self, plot_im: np.ndarray) -> None:
        """Show a picture in a window of OpenCV; without a display that is said once."""
        if not self._noted and not show_frame(plot_im, type(self).__name__):
            print_note("show=True shows nothing: there is no display here, or this OpenCV opens no windows.")
            self._noted = True
