"""The trackers under the names of the wider package: built from keys, called with boxes, added as callbacks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.trackers import BOTSORT, BYTETracker, register_tracker
from bitfalcon_plugin.dropin.trackers.basetrack import BaseTrack, TrackState
from bitfalcon_plugin.predict.detections import Boxes
from tests.helpers.bright import bright
from tests.helpers.fake_tracker import clip, fake, ids_of, scene  # noqa: F401  a fixture

KEYS = {
    "tracker_type": "bytetrack",
    "track_high_thresh": 0.25,
    "track_low_thresh": 0.1,
    "new_track_thresh": 0.25,
    "track_buffer": 60,
    "match_thresh": 0.8,
    "fuse_score": True,
}


def boxes_of(index: int) -> Boxes:
    rows = [(x1, y1, x2, y2, 0.8, cls) for cls, x1, y1, x2, y2 in scene(index)]
    return Boxes(np.asarray(rows, np.float32), (96, 128))


@pytest.mark.parametrize("kind", [BYTETracker, BOTSORT])
@pytest.mark.parametrize("args", [KEYS, SimpleNamespace(**KEYS)])
def test_a_tracker_by_itself(fake, kind, args):
    tracker = kind(args, frame_rate=15)
    assert (tracker.args.lost_track_buffer, tracker.max_time_lost) == (60, 30)
    first = tracker.update(boxes_of(0), clip()[0])
    assert first.shape == (2, 8) and first[:, :4].tolist() == boxes_of(0).xyxy.tolist()
    assert first[:, 4:].tolist() == [[1, pytest.approx(0.8), 0, 0], [2, pytest.approx(0.8), 1, 1]]
    tensors = SimpleNamespace(xywh=boxes_of(1).xywh, conf=boxes_of(1).conf, cls=boxes_of(1).cls)
    assert tracker.update(tensors)[:, :5].tolist() == [[7, 6, 27, 30, 1], [98, 50, 118, 80, 2]]
    (red, green) = tracker.tracked_stracks
    assert (red.track_id, red.state, red.start_frame, red.frame_id) == (1, TrackState.Tracked, 1, 2)
    assert red.is_activated and red.result == [7, 6, 27, 30, 1, pytest.approx(0.8), 0, 0] and isinstance(red, object)
    assert tracker.update(boxes_of(1)[:0]).shape == (0, 8) and len(tracker.lost_stracks) == 2
    tracker.reset()
    tracker.reset_id(), BaseTrack.reset_id()
    assert tracker.frame_id == 0 and tracker.update(boxes_of(0))[:, 4].tolist() == [1, 2]


def test_keys_are_checked(fake):
    with pytest.raises(UserError, match="Wrong keys in BYTETracker"):
        BYTETracker({"track_high_thresh": 3})


def test_callbacks_that_a_script_adds(tmp_path, fake):
    model, frames = bright(tmp_path), clip()
    register_tracker(model, persist=True)
    assert ids_of(model.predict(frame)[0] for frame in frames[:3]) == [[1, 2]] * 3
    assert len(model.predictor.trackers) == 1 and model.predictor.trackers[0].frame_id == 3
    assert ids_of(model.track(frames[12])) == [[1, 2, 3]], "tracked once, not twice"
    other = bright(tmp_path)
    register_tracker(other)
    assert ids_of([other.predict(frame)[0] for frame in frames[12:]]) == [[1, 2, 3]] * 2
