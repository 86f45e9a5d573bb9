"""labels=: files of true identities, and HOTA, MOTA and IDF1 of tracks whose numbers are known by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.track.scores import ClipScores, read_labels, score_line
from tests.helpers.bright import bright
from tests.helpers.fake_tracker import clip, fake, scene  # noqa: F401  a fixture

COLOURS = {0: "red", 1: "green", 2: "blue"}


def write_labels(path, count=14, columns=",1,-1,-1,-1", skip=()):
    lines = []
    for index in range(count):
        for cls, x1, y1, x2, y2 in scene(index):
            if cls not in skip:
                lines.append(f"{index + 1},{cls + 1},{x1},{y1},{x2 - x1},{y2 - y1}{columns}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_forms_of_a_file(tmp_path):
    rows = "3,7,1,2,10,20\n3,8,1.5,2,10,20,0\n\n4,7,1,2,10,20,1,2,0.5\n"
    (tmp_path / "gt.txt").write_text("\ufeff" + rows)
    expected = [[3, 7, 1, 2, 10, 20, 1, 1], [3, 8, 1.5, 2, 10, 20, 0, 1], [4, 7, 1, 2, 10, 20, 1, 2]]
    assert read_labels(tmp_path / "gt.txt").tolist() == expected == read_labels(tmp_path).tolist()
    (tmp_path / "seq/gt").mkdir(parents=True)
    (tmp_path / "seq/gt/gt.txt").write_text("0;1;1;2;10;20\n1; 1; 1; 2; 10; 20\n")
    assert read_labels(tmp_path / "seq")[:, 0].tolist() == [1, 2], "frames from 0 are counted from 1"


def test_mistakes_in_a_file(tmp_path):
    (tmp_path / "gt.txt").write_text("1,1,1,2,10\n1,1,1,2,10,20\nframe,id\n2,1,1,2,nan,20\n")
    with pytest.raises(UserError) as error:
        read_labels(tmp_path / "gt.txt")
    assert re.findall(r"line (\d)", str(error.value)) == ["1", "3", "4"] and "frame, id, left, top" in str(error.value)
    (tmp_path / "gt.txt").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_labels(tmp_path / "gt.txt")
    with pytest.raises(MissingFileError):
        read_labels(tmp_path / "other.txt")


@pytest.fixture()
def trackers():
    return pytest.importorskip("trackers", reason="the package trackers is not installed (extra track)")


def scores(labels, rows, frames=None):
    frames = frames or {int(row[0]) for row in labels}
    return ClipScores(np.asarray(labels, float), frames, [(*row, 0.9, -1, -1, -1) for row in rows])


BOX = (10, 10, 20, 20)


def test_numbers_by_hand(trackers):
    """One object in four frames. Its track changes its id after the second: IDTP 2, IDFN 2, IDFP 2, one switch."""
    labels = [(frame, 5, *BOX, 1, 1) for frame in (1, 2, 3, 4)]
    right = scores(labels, [(frame, 3, *BOX) for frame in (1, 2, 3, 4)]).metrics(COLOURS)
    assert (right["HOTA"], right["MOTA"], right["IDF1"], right["IDSW"]) == pytest.approx((1, 1, 1, 0))
    broken = scores(labels, [(1, 3, *BOX), (2, 3, *BOX), (3, 4, *BOX), (4, 4, *BOX)]).metrics(COLOURS)
    assert broken["IDF1"] == pytest.approx(2 * 2 / (4 + 4)) and broken["MOTA"] == pytest.approx(1 - 1 / 4)
    assert broken["HOTA"] == pytest.approx(0.5**0.5) and (broken["IDSW"], broken["tracks"], broken["objects"]) == (
        1,
        2,
        1,
    )
    missed = scores(labels, [(1, 3, *BOX), (2, 3, *BOX), (3, 3, 200, 200, 20, 20)]).metrics(COLOURS)
    assert missed["MOTA"] == pytest.approx(1 - (2 + 1) / 4) and missed["found"] == 2
    assert missed["IDF1"] == pytest.approx(2 * 2 / (4 + 3))
    nothing = scores(labels, []).metrics(COLOURS)
    assert (nothing["HOTA"], nothing["IDF1"], nothing["tracks"]) == (0, 0, 0)


def test_which_rows_count(trackers):
    """Ignored rows never; the classes of MOT Challenge only for models that know people; unseen frames never."""
    other = 60, 60, 20, 20
    rows = [(1, 1, *BOX), (1, 2, *other)]
    assert scores([(1, 5, *BOX, 1, 1), (1, 6, *other, 0, 1)], rows).metrics(COLOURS)["boxes"] == 1
    labels = [(1, 5, *BOX, 1, 1), (1, 6, *other, 1, 7), (2, 5, *BOX, 1, 1)]
    people = scores(labels, rows, {1}).metrics({0: "Person"})
    assert (people["boxes"], people["MOTA"]) == (1, 1), "a static person is no mistake"
    assert scores(labels, rows, {1}).metrics(COLOURS)["boxes"] == 2
    assert scores([(*row[:7], -1) for row in labels], rows, {1}).metrics({0: "person"})["boxes"] == 2
    with pytest.raises(UserError, match="labels= has no object in the frames of the source"):
        scores(labels, rows, {7}).metrics(COLOURS)


def test_a_clip_with_labels_prints_a_line(trackers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels = write_labels(tmp_path / "mot/gt/gt.txt")
    model = bright(tmp_path)
    model.track(clip(), labels=labels, verbose=False)
    line = capsys.readouterr().out
    metrics = model.predictor.track_metrics
    assert line == score_line(metrics) + "\n" and "IDF1 " in line and "HOTA " in line and "MOTA " in line
    # The blue object has no id in its first frame; every other box is right.
    boxes = sum(len(scene(index)) for index in range(14))
    assert metrics["IDF1"] == pytest.approx(2 * (boxes - 1) / (2 * boxes - 1))
    assert metrics["MOTA"] == pytest.approx(1 - 1 / boxes) and metrics["objects"] == metrics["tracks"] == 3
    model.track(clip(), labels=tmp_path / "mot", json=True)
    out, err = capsys.readouterr()
    assert score_line(metrics) in err and "HOTA" not in out


def test_labels_belong_to_one_clip(tmp_path, fake):
    for name in ("a.avi", "b.avi"):
        (tmp_path / name).write_text("")
    pytest.importorskip("cv2", reason="OpenCV is not installed (extra video)")
    with pytest.raises(UserError, match="labels= belongs to one clip, and source= has 2"):
        bright(tmp_path).track([tmp_path / "a.avi", tmp_path / "b.avi"], labels=write_labels(tmp_path / "gt.txt"))
