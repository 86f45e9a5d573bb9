"""Solutions with objects that move on known lines: the counts are those that one counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import bitfalcon_plugin.dropin.solutions as solutions
from bitfalcon_plugin.config.errors import UserError
from tests.helpers.bright import bright, canvas
from tests.helpers.fake_tracker import fake  # noqa: F401  a fixture

H, W = 96, 160


def around(cls: int, x: float, y: float, half: int = 8) -> tuple[int, int, int, int, int]:
    """A rectangle by its centre."""
    return cls, int(x) - half, int(y) - half, int(x) + half, int(y) + half


def frame(*centres) -> np.ndarray:
    """A frame with red, green and blue at these centres (x, y); None where the object is not there."""
    return canvas(H, W, *(around(cls, *centre) for cls, centre in enumerate(centres) if centre))


# Red goes down, green goes up, blue goes down and up again: around the line y = 48, which their centres cross.
UP_AND_DOWN = [
    frame((30, 20 + 4 * t), (80, 76 - 4 * t), (130, 40 + (4 * t if t < 8 else 4 * (15 - t)))) for t in range(15)
]


@pytest.fixture()
def model(tmp_path, monkeypatch, fake):
    pytest.importorskip("supervision", reason="supervision is not installed (extra clients)")
    monkeypatch.chdir(tmp_path)
    return bright(tmp_path, verbose=False)


def run(solution, frames):
    return [solution(each.copy()) for each in frames]


@pytest.mark.parametrize("line", [[(0, 48), (W, 48)], [(W, 48), (0, 48)], None])
def test_a_line_that_objects_cross(model, line):
    counter = solutions.ObjectCounter(model=model, region=line, verbose=False)
    results = run(counter, UP_AND_DOWN)
    # Red's centre is at 20, 24, ..., 48 (on the line) and 52 in frame 8; blue's at 40, 44, 48, 52 in frame 3.
    assert [result.in_count for result in results] == [0, 0] + [results[2].in_count] + [1] * 4 + [
        results[7].in_count
    ] + [2] * 7
    last = results[-1]
    assert (last.in_count, last.out_count) == (2, 2) == (counter.in_count, counter.out_count)
    assert last.classwise_count == {
        "red": {"IN": 1, "OUT": 0},
        "green": {"IN": 0, "OUT": 1},
        "blue": {"IN": 1, "OUT": 1},
    }
    assert last.total_tracks == 3 and last.plot_im.shape == (H, W, 3) and last.plot_im.dtype == np.uint8
    assert (last.region_counts, last.speed_dict, last.total_crop_objects, last.queue_count) == ({}, {}, 0, 0)
    assert "in_count=2" in str(last) and not np.array_equal(last.plot_im, UP_AND_DOWN[-1])


def test_a_steep_line_and_its_ends(model):
    """To the right is in. Green passes below the end of the line, which it does not cross."""
    frames = [frame((40 + 6 * t, 20), (40 + 6 * t, 84), (124 - 6 * t, 50)) for t in range(14)]
    counter = solutions.ObjectCounter(model=model, region=[(80, 64), (80, 0)], verbose=False)
    last = run(counter, frames)[-1]
    assert last.classwise_count == {"red": {"IN": 1, "OUT": 0}, "blue": {"IN": 0, "OUT": 1}}


def test_a_polygon_that_objects_enter_and_leave(model):
    """Red goes in and out, green goes in and stays, blue is inside from the start and leaves."""
    square = [(60, 20), (100, 20), (100, 80), (60, 80)]
    frames = [frame((20 + 8 * t, 30), (min(20 + 8 * t, 80), 66), (80 + 5 * t, 48)) for t in range(15)]
    counter = solutions.ObjectCounter(model=model, region=square, verbose=False)
    last = run(counter, frames)[-1]
    assert (last.in_count, last.out_count) == (2, 2)
    assert last.classwise_count == {
        "red": {"IN": 1, "OUT": 1},
        "green": {"IN": 1, "OUT": 0},
        "blue": {"IN": 0, "OUT": 1},
    }


def test_regions_and_queues(model):
    regions = {"left": [(0, 0), (80, 0), (80, 96), (0, 96)], "right": [(80, 0), (160, 0), (160, 96), (80, 96)]}
    frames = [frame((20 + 10 * t, 20), (30, 70), None if t < 5 else (120, 70)) for t in range(12)]
    by_hand = [{"left": (20 + 10 * t < 80) + 1, "right": (20 + 10 * t > 80) + (t > 5)} for t in range(12)]
    counter = solutions.RegionCounter(model=model, region=regions, verbose=False)
    results = run(counter, frames)
    for t in (0, 3, 5, 8, 11):  # not while red's centre is on the border; blue gets its id in its second frame
        assert results[t].region_counts == by_hand[t], t
    whole = run(solutions.RegionCounter(model=model, verbose=False), frames[:2])[-1]
    assert whole.region_counts == {"Region#01": 2} and whole.total_tracks == 2
    queue = run(solutions.QueueManager(model=model, region=regions["left"], verbose=False), frames)
    assert [queue[t].queue_count for t in (0, 8)] == [2, 1]


def test_speeds(model):
    """Red goes 4 px a frame, green 2, blue stands: at 0.1 m a pixel and 25 frames a second 36, 18 and 0 km/h."""
    frames = [frame((20 + 4 * t, 20), (20 + 2 * t, 70), (130, 50)) for t in range(10)]
    keywords = {"model": model, "fps": 25, "meter_per_pixel": 0.1, "verbose": False}
    results = run(solutions.SpeedEstimator(max_hist=5, **keywords), frames)
    assert [len(result.speed_dict) for result in results] == [0] * 4 + [3] * 6
    assert results[-1].speed_dict == pytest.approx({1: 36, 2: 18, 3: 0}, abs=2)
    slow = run(solutions.SpeedEstimator(max_hist=5, max_speed=20, **keywords), frames)
    assert slow[-1].speed_dict[1] == 20 and slow[-1].plot_im.shape == (H, W, 3)


def test_crops(model, tmp_path):
    cropper = solutions.ObjectCropper(model=model, crop_dir=tmp_path / "crops", verbose=False)
    results = run(cropper, [frame((30, 20), (80, 70)), frame((30, 20))])
    assert [result.total_crop_objects for result in results] == [2, 3] and results[0].total_tracks == 0
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == ["crop_1.jpg", "crop_2.jpg", "crop_3.jpg"]
    sizes = [Image.open(tmp_path / f"crops/crop_{number}.jpg").size for number in (1, 2, 3)]
    assert np.abs(np.array(sizes) - 16).max() <= 1


def test_blur(model):
    picture = frame((30, 20))
    picture[12:28, 22:38, 1:] = np.where(np.arange(16)[:, None, None] % 4 < 2, [0, 255], [60, 255])
    blurrer = solutions.ObjectBlurrer(model=model, blur_ratio=0.1, show_boxes=False, show_labels=False, verbose=False)
    blurred = blurrer(picture.copy()).plot_im
    inside = np.s_[14:26, 24:36, 1]  # stripes of green
    assert blurred[inside].std() < picture[inside].std() / 2
    assert np.array_equal(blurred[40:], picture[40:]), "only the object changes"
    with pytest.raises(UserError, match="blur_ratio='much'"):
        solutions.ObjectBlurrer(model=model, blur_ratio="much", verbose=False)(picture)


@pytest.mark.parametrize("colormap", [None, 12])
def test_heat(model, colormap):
    heat = solutions.Heatmap(model=model, colormap=colormap, region=[(0, 48), (W, 48)], verbose=False)
    results = run(heat, UP_AND_DOWN)
    assert (results[-1].in_count, results[-1].out_count) == (2, 2)
    plain = solutions.Heatmap(model=model, colormap=colormap, verbose=False)
    picture = run(plain, UP_AND_DOWN)[-1].plot_im
    changed = (picture.astype(int) - UP_AND_DOWN[-1]).any(2)
    assert changed[48, 30] and changed[48, 80] and not changed[90, 155]
    assert solutions.Heatmap(model=model, verbose=False).process(frame()).plot_im.tolist() == frame().tolist()


def test_keywords(model, monkeypatch):
    with pytest.raises(
        ValueError, match=r"ObjectCounter\(regoin=...\): there is no such keyword. Did you mean 'region'"
    ):
        solutions.ObjectCounter(model=model, regoin=[])
    with pytest.raises(UserError, match="needs model=: a trained checkpoint"):
        solutions.Heatmap()
    for wrong in ([(1, 2)], 3, [(1, 2, 3), (4, 5, 6)], "line"):
        with pytest.raises(UserError, match="expected points"):
            solutions.ObjectCounter(model=model, region=wrong, verbose=False)(frame((30, 20)))
    with pytest.raises(UserError, match="expected a polygon"):
        solutions.QueueManager(model=model, region=[(1, 2), (3, 4)], verbose=False)(frame((30, 20)))
    every = {"source": "x", "show_conf": False, "records": 5, "kpts": [6, 8], "tracker": "sort", "classes": [0]}
    counter = solutions.ObjectCounter(model=model, line_width=1, conf=0.5, verbose=False, **every)
    assert counter(frame((30, 20), (80, 70))).total_tracks == 1 and counter.CFG["show_in"] is True
    assert counter.count(frame((30, 20))).shape == (H, W, 3)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ObjectCounter needs supervision: pip install 'bitfalcon\[clients\]'"):
        solutions.ObjectCounter(model=model)


def test_show_without_a_display_is_said_once(model, monkeypatch, capsys):
    monkeypatch.setattr("bitfalcon_plugin.dropin.solutions.solutions.show_frame", lambda *_: False)
    run(solutions.ObjectCounter(model=model, show=True, verbose=False), UP_AND_DOWN[:3])
    assert capsys.readouterr().err.count("show=True shows nothing") == 1


@pytest.mark.parametrize("name", sorted(solutions._NOT_HERE))
def test_what_is_not_here_says_so_when_it_is_used(name):
    thing = getattr(solutions, name)
    with pytest.raises(ImportError, match=f"solutions.{name}, .* is not in bitfalcon"):
        thing(model="best.pt")
