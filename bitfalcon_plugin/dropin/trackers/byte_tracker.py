"""ByteTrack, constructed from the keys of a tracker YAML and called frame by frame with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...ops.boxes import xyxy_from_xywh
from ...track.options import options_from
from ...track.tracker import Tracker
from .basetrack import BaseTrack

STrack = BaseTrack


class BYTETracker(Tracker):
    """A tracker of one clip. args: a namespace or a dict with the keys of a tracker YAML. frame_rate: frames a second.

    tracked_stracks, lost_stracks, removed_stracks, frame_id and reset() are those of track.tracker.Tracker.
    """

    kind = "bytetrack"

    def __init__(self, args: object, frame_rate: int = 30):
        given = dict(args) if isinstance(args, Mapping) else dict(vars(args))
        where = type(self).__name__
        super().__init__(options_from({"frame_rate": frame_rate, **given, "tracker_type": self.kind}, where))
        self.max_time_lost = self.max_frames_lost = int(self.args.lost_track_buffer * self.args.frame_rate / 30)

    def update(self, results: Any, img: np.ndarray | None = None, feats: object = None) -> np.ndarray:
        """Return (k, 8): x1, y1, x2, y2, id, score, class and row of each detection that has a track.

        results: an object with xyxy or xywh (n, 4) pixels, conf (n,) and cls (n,), such as Boxes. img (H, W, 3): BGR
        uint8. feats: no appearance is looked at.
        """
        corners = results.xyxy if hasattr(results, "xyxy") else xyxy_from_xywh(torch.as_tensor(results.xywh))
        boxes, scores, classes = (_float64(values) for values in (corners, results.conf, results.cls))
        frame = np.zeros((2, 2, 3), np.uint8) if img is None else img
        ids = self.step(boxes.reshape(-1, 4), scores, classes, frame)
        rows = ids.nonzero()[0]
        columns = [boxes.reshape(-1, 4), *(column[:, None] for column in (ids, scores, classes, np.arange(len(ids))))]
        return np.concatenate(columns, axis=1)[rows].astype(np.float32)

    @staticmethod
    def reset_id() -> None:
        """Do nothing: every tracker counts its own ids from 1."""


def _float64(values: object) -> np.ndarray:
    return np.asarray(torch.as_tensor(values).detach().cpu().double())
