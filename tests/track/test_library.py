"""The trackers of the package: every one follows the objects of a clip, and odd detections do not break it."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from bitfalcon_plugin.track.library import NONE, LibraryEngine
from bitfalcon_plugin.track.options import options_from, read_options, shipped_trackers
from bitfalcon_plugin.track.tracker import MAX_REMOVED, Tracker

pytest.importorskip("trackers", reason="the package trackers is not installed (extra track)")

FRAME = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
NAMES = tuple(shipped_trackers())


def boxes_at(time: float, count: int = 3) -> np.ndarray:
    """(count, 4) xyxy of objects that move at different speeds on lines of their own."""
    x = 10 + np.arange(count) * 5 + time * (1 + np.arange(count) % 3)
    y = 10 + np.arange(count) * 60.0
    return np.stack([x, y, x + 40, y + 40], 1)


def step(engine, boxes, scores=None, frame=FRAME):
    scores = np.full(len(boxes), 0.9) if scores is None else np.asarray(scores, float)
    return engine.update(np.asarray(boxes, float).reshape(-1, 4), scores, np.zeros(len(boxes)), frame)


@pytest.mark.parametrize("name", NAMES)
def test_ids_begin_at_one_in_the_first_frame_and_stay(name):
    engine = LibraryEngine(read_options(name))
    assert [step(engine, boxes_at(time)).tolist() for time in range(20)] == [[1, 2, 3]] * 20
    alive = engine.alive()
    assert sorted(alive) == [1, 2, 3] and np.abs(alive[2] - boxes_at(19)[1]).max() < 3


@pytest.mark.parametrize("name", NAMES)
def test_without_instant_activation_ids_come_later(name):
    engine = LibraryEngine(options_from({"instant_first_frame_activation": False}, "x.yaml", name))
    assert step(engine, boxes_at(0)).tolist() == [NONE] * 3
    assert sorted(step(engine, boxes_at(time)).tolist() for time in range(1, 6))[-1] == [1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_odd_detections(name):
    engine = LibraryEngine(read_options(name))
    odd = np.array([[5, 5, 5, 30], [9, 9, 4, 4], [np.nan, 1, 2, 3], [0, 0, np.inf, 9]])
    assert [step(engine, np.zeros((0, 4))).tolist() for _ in range(4)] == [[]] * 4
    for time in range(4):
        ids = step(engine, np.concatenate([odd, boxes_at(time)]), [0.9] * 4 + [0.9, 0.8, 0.01])
        assert ids[:4].tolist() == [NONE] * 4 and ids[6] == NONE
    assert sorted(ids[4:6].tolist()) == [1, 2]
    assert step(engine, odd).tolist() == [NONE] * 4


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sort"])
def test_unsure_detections_keep_a_track_or_are_left_out(name):
    engine = LibraryEngine(read_options(name))
    ids = [step(engine, boxes_at(time, 1), [0.9 if time < 8 else 0.15])[0] for time in range(12)]
    assert ids[:8] == [1] * 8 and ids[8:] == [NONE if name == "ocsort" else 1] * 4
    assert step(LibraryEngine(read_options(name)), boxes_at(0, 1), [0.15]).tolist() == [NONE], "they begin none"


def test_the_camera(caplog):
    """A jump of the picture loses no object where the motion of the camera is measured."""
    texture = np.kron(np.random.default_rng(1).integers(0, 255, (60, 90, 1), np.uint8), np.ones((8, 8, 3), np.uint8))
    ids = {}
    for method in ("sparseOptFlow", "none"):
        engine = LibraryEngine(options_from({"gmc_method": method}, "x.yaml", "botsort"))
        for shift in (0, 0, 0, 0, 0, 36):
            ids[method] = step(
                engine, boxes_at(0) + np.array([200 - shift, 100] * 2), frame=texture[:, shift : shift + 600]
            )
    assert ids == {"sparseOptFlow": pytest.approx([1, 2, 3]), "none": pytest.approx([NONE] * 3)}
    flat = np.full((240, 320, 3), 114, np.uint8)
    step(engine := LibraryEngine(read_options("botsort")), boxes_at(0), frame=flat)
    step(engine, boxes_at(1), frame=flat)
    assert logging.getLogger("trackers").handlers, "otherwise Python prints its warnings to stderr"


def test_the_order_of_channels():
    seen = []
    for name in ("botsort", "mcbyte", "bytetrack"):
        engine = LibraryEngine(read_options(name))
        engine._tracker.update = lambda detections, frame: seen.append(frame) or detections[:0]
        step(engine, np.zeros((0, 4)))
    assert np.array_equal(seen[0], FRAME) and np.array_equal(seen[1], FRAME[..., ::-1]) and seen[2] is None


def test_few_tracks_that_ended_are_remembered():
    tracker = Tracker(options_from({"lost_track_buffer": 0}, "x.yaml", "sort"))
    box, one = boxes_at(0, 1), np.ones(1)
    for time in range(12):
        for shift in (0, 0):
            tracker.step(box + (time % 2) * 150 + shift, one, one, FRAME)
    assert len(tracker.tracks) <= MAX_REMOVED and len(tracker.removed_stracks) == 11
    assert [track.track_id for track in tracker.tracked_stracks] == [12]
