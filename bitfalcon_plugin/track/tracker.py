"""Identities of the objects of one clip: what was seen of each, and Results with the ids of their boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from ..config.errors import UserError
from ..predict.detections import OBB
from ..predict.results import Results
from .library import NONE, Engine, LibraryEngine
from .options import TrackerOptions

TRACKED, LOST, REMOVED = 1, 2, 3  # states of a track
MAX_REMOVED = 1000  # tracks that ended and are remembered


@dataclass
class Track:
    """One object. Names as scripts read them from `predictor.trackers`.

    track_id: from 1. box (4,): xyxy pixels, of the detection, or where the object is expected while it is lost. score,
    cls, idx: of its last detection; idx is its row. start_frame, frame_id: the first and the last frame that it was
    seen in, from 1. tracklet_len: detections after the first. state: TRACKED, LOST or REMOVED. mean, covariance: of the
    filter, which is the library's own: None.
    """

    mean = covariance = None

    track_id: int
    box: np.ndarray
    score: float
    cls: int
    idx: int
    start_frame: int
    frame_id: int
    tracklet_len: int = 0
    state: int = TRACKED
    is_activated: bool = True

    @property
    def xyxy(self) -> np.ndarray:
        """Corners (4,) in pixels."""
        return self.box

    @property
    def tlwh(self) -> np.ndarray:
        """Upper left corner and size (4,) in pixels."""
        return np.concatenate([self.box[:2], self.box[2:] - self.box[:2]])

    @property
    def xywh(self) -> np.ndarray:
        """Centre and size (4,) in pixels."""
        return np.concatenate([(self.box[:2] + self.box[2:]) / 2, self.box[2:] - self.box[:2]])

    @property
    def result(self) -> list[float]:
        """Corners, id, score, class and row of the last detection."""
        return [*self.box.tolist(), self.track_id, self.score, self.cls, self.idx]


@dataclass
class Tracker:
    """The tracker of one clip. options: its parameters. frame_id: frames so far."""

    options: TrackerOptions
    frame_id: int = field(default=0, init=False)
    tracks: dict[int, Track] = field(default_factory=dict, init=False)
    engine: Engine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of another clip, and ids start at 1."""
        self.engine, self.frame_id, self.tracks = LibraryEngine(self.options), 0, {}

    @property
    def args(self) -> SimpleNamespace:
        """The name of the tracker and its parameters, as attributes."""
        return SimpleNamespace(tracker_type=self.options.name, **self.options.parameters)

    def step(self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Return the ids (n,) of the detections of the next frame, NONE for those without a track.

        boxes (n, 4): xyxy pixels. scores (n,): in [0, 1]. classes (n,). frame (H, W, 3): BGR uint8.
        """
        self.frame_id += 1
        ids = self.engine.update(boxes, scores, classes, frame)
        for row, track_id in enumerate(ids.tolist()):
            if track_id != NONE:
                self._see(track_id, boxes[row], float(scores[row]), int(classes[row]), row)
        alive = self.engine.alive()
        for track in self.tracks.values():
            if track.frame_id == self.frame_id:
                track.state = TRACKED
            else:
                track.state = LOST if track.track_id in alive else REMOVED
                track.box = alive.get(track.track_id, track.box)
        for track in self.removed_stracks[:-MAX_REMOVED]:
            del self.tracks[track.track_id]
        return ids

    def _see(self, track_id: int, box: np.ndarray, score: float, cls: int, row: int) -> None:
        track = self.tracks.get(track_id)
        if track is None:
            self.tracks[track_id] = Track(track_id, box, score, cls, row, self.frame_id, self.frame_id)
            return
        track.box, track.score, track.cls, track.idx, track.frame_id = box, score, cls, row, self.frame_id
        track.tracklet_len += 1

    def _in_state(self, state: int) -> list[Track]:
        return [track for track in self.tracks.values() if track.state == state]

    @property
    def tracked_stracks(self) -> list[Track]:
        """The objects of the last frame."""
        return self._in_state(TRACKED)

    @property
    def lost_stracks(self) -> list[Track]:
        """The objects that are out of sight and may come back."""
        return self._in_state(LOST)

    @property
    def removed_stracks(self) -> list[Track]:
        """The objects that are not waited for any more, the last of them at the end."""
        return self._in_state(REMOVED)

    def with_ids(self, result: Results) -> Results:
        """Return the Results of the next frame with ids: the objects that have a track, in the order of the detections.

        The boxes are those of the detections; oriented boxes are followed by the upright boxes around them. Masks and
        keypoints keep the same rows. Without any track there are no boxes, and no ids. Raises UserError for results
        without boxes.
        """
        boxes = result.detections
        if boxes is None:
            raise UserError("track needs boxes to follow, and this model gives probabilities of whole images only.")
        corners, scores, classes = (_array(part) for part in (boxes.xyxy, boxes.conf, boxes.cls))
        ids = self.step(corners, scores, classes, result.orig_img)
        rows = (ids != NONE).nonzero()[0].tolist()
        tracked = result[rows]
        if rows:
            name = "obb" if isinstance(boxes, OBB) else "boxes"
            data = _with_column(getattr(tracked, name).data, ids[rows])
            setattr(tracked, name, type(boxes)(data, result.orig_shape))
        return tracked


def _array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """The values in the CPU's memory, float64: scores of half precision would not reach their own thresholds."""
    return np.asarray(torch.as_tensor(values).detach().double().cpu())


def _with_column(rows: torch.Tensor | np.ndarray, ids: np.ndarray) -> torch.Tensor:
    """Return rows (n, c) with ids (n,) before the score: (n, c + 1), float32, in which ids to 16 million are exact."""
    data = torch.as_tensor(rows).float()
    column = torch.as_tensor(ids, dtype=data.dtype, device=data.device)[:, None]
    return torch.cat([data[:, :-2], column, data[:, -2:]], dim=1)
