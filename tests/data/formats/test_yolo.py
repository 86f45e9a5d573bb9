"""Label rows, from files that the tests write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.yolo import label_path, read_labels
from tests.helpers.labels import centres
from tests.helpers.tiny_dataset import dataset


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/images/set/images/a.b.png", "/images/set/labels/a.b.txt"),
        ("/d/images.old/a.jpg", "/d/images.old/a.txt"),
        ("/d/Images/images", "/d/Images/images.txt"),
        ("/d/x/a.jpg", "/d/x/a.txt"),
    ],
)
def test_label_path(path, expected):
    assert label_path(Path(path)) == Path(expected)


def test_samples_hold_what_the_files_say(tmp_path):
    text = b"\xef\xbb\xbf1 0.50 0.25 0.125 0.0625\r\n\r\n  0.0\t0.1 0.2   2e-1 .1  \r\n"
    labels = {"a": text, "b": "", "c": "\n \n", "d": None, "e": b"0 .5 .5 1 1\r1 .5 .5 .1 .1"}
    spec = load_data(dataset(tmp_path, labels))
    result = scan(spec, "train")
    a, b, c, d, e = result.samples
    assert a.labels.classes.tolist() == [1, 0] and a.labels.classes.dtype == torch.int64
    assert a.labels.boxes.dtype == torch.float32
    assert torch.allclose(centres(a), torch.tensor([[0.5, 0.25, 0.125, 0.0625], [0.1, 0.2, 0.2, 0.1]]))
    assert all(sample.labels.boxes.shape == (0, 4) and sample.labels.classes.shape == (0,) for sample in (b, c, d))
    assert e.labels.classes.tolist() == [0, 1] and centres(e)[0].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert (result.labelled, result.missing, result.empty, result.unreadable) == (2, 1, 2, 0)
    assert result.notes == ()


def test_polygons_become_boxes_row_by_row(tmp_path):
    rows = "0 0.1 0.2 0.5 0.2 0.3 0.6\n1 0.5 0.5 0.2 0.2\n1 0 0 1.005 0 1 1 -0.005 1\n"
    (sample,) = scan(load_data(dataset(tmp_path, {"a": rows})), "train").samples
    expected = torch.tensor([[0.3, 0.4, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(centres(sample), expected)
    assert sample.labels.classes.tolist() == [0, 1, 1]


def test_polygons_are_kept_with_their_rows(tmp_path):
    a = "0 0.1 0.2 0.5 0.2 0.3 0.6\n1 0.5 0.5 0.2 0.2\n1 0 0 1.005 0 1 1 -0.005 1\n0 .1 .1 .2 .1 .3 .1\n"
    labels = {"a": a, "b": "0 .5 .5 .1 .1", "c": "", "d": "1 .1 .1 .9 .1 .9 .9\n1 .1 .1 .9 .1 .9 .9"}
    spec = load_data(dataset(tmp_path, labels))
    result = scan(spec, "train")
    kept, *others = (sample.labels.polygons for sample in result.samples)
    assert others[0] is others[1] is None and others[2].counts.tolist() == [3]
    assert kept.counts.tolist() == [3, 0, 4] and kept.points.dtype == torch.float32  # the flat one is gone
    expected = [[0.1, 0.2], [0.5, 0.2], [0.3, 0.6], [0, 0], [1, 0], [1, 1], [0, 1]]
    torch.testing.assert_close(kept.points, torch.tensor(expected))
    assert result.polygons == 3
    only = scan(spec, "train", classes=1).samples[0].labels.polygons
    assert only.counts.tolist() == [0, 4] and torch.equal(only.points, kept.points[3:])
    assert scan(spec, "train", single_cls=True).polygons == 3
    assert scan(spec, "val").polygons == 0


@pytest.mark.parametrize(
    "row, words",
    [
        ("0 0.5 0.5 0.2", ["4 columns", "expected 5"]),
        ("0", ["1 column in '0'"]),
        ("0 0.5 0.5 0.2 0.2 0.9", ["6 columns", "no confidence column"]),
        ("0 .1 .1 .2 .2 .3 .3 .4", ["8 columns"]),
        ("0,0.5,0.5,0.2,0.2", ["1 column", "spaces between them, without commas"]),
        ("0, 0.5, 0.5, 0.2, 0.2", ["'0,'", "without commas"]),
        ("0 0,5 0,5 0,2 0,2", ["'0,5'", "points in them and spaces"]),
        ("0;0.5;0.5;0.2;0.2", ["1 column", "without commas"]),
        ("cat 0.5 0.5 0.2 0.2", ["'cat'", "the class is written as its number in `names:`"]),
        ("10 20 30 20 30 40 10 40 plane 0", ["is a line of DOTA's labels", "bitfalcon data to=yolo format=dota"]),
        ("imagesource:GoogleEarth", ["'imagesource:GoogleEarth' is a line of DOTA's labels"]),
        ("0 320 200 50 40", ["cx = 320, cy = 200 and 2 more are outside the image", "divided by its width"]),
        ("0 0.5 x 0.2 y", ["'x', 'y'"]),
        ("0 nan 0.5 0.2 0.2", ["'nan'", "finite"]),
        ("0 0.5 0.5 inf 0.2", ["'inf'"]),
        ("0 0.5 0.5 1_0 0.2", ["'1_0'"]),
        ("0.5 0.5 0.5 0.2 0.2", ["class 0.5", "whole"]),
        ("2 0.5 0.5 0.2 0.2", ["class 2", "0 to 1"]),
        ("-1 0.5 0.5 0.2 0.2", ["class -1", "0 to 1"]),
        ("0 0.5 0.5 -0.2 0.2", ["w = -0.2", "negative"]),
        ("0 0.5 0.5 0.2 -0.001", ["h = -0.001", "negative"]),
        ("0 1.02 0.5 0.2 0.2", ["cx = 1.02", "outside"]),
        ("0 0.5 -0.02 0.2 0.2", ["cy = -0.02", "outside"]),
        ("0 0.5 0.5 320 0.2", ["w = 320", "not pixels"]),
        ("0 .1 .1 1.02 .2 .3 -.3", ["x2 = 1.02", "y3 = -.3"]),
        ("7 1.5 0.5 0.2 -1", ["class 7", "cx = 1.5", "h = -1"]),
        (b"0 0.5 \xff\xfe 0.2 0.2", ["not UTF-8"]),
        (b"\x00\x01\x02\x03", ["binary"]),
        ("0 .5 .5 .1 .1".encode("utf-16"), ["not UTF-8"]),
    ],
)
def test_label_problems_name_file_line_value_and_expectation(tmp_path, row, words):
    content = row if isinstance(row, bytes) else f"0 0.5 0.5 0.1 0.1\n\n{row}\n"
    path = dataset(tmp_path, {"good": "0 0.5 0.5 0.1 0.1", "bad": content})
    with pytest.raises(UserError) as caught:
        scan(load_data(path), "train")
    message = str(caught.value)
    where = tmp_path / "labels" / "train" / "bad.txt"
    assert (f"{where}: " if isinstance(row, bytes) else f"{where}:3: ") in message
    assert all(word in message for word in [*words, "'train'", str(path)])
    assert "good.txt" not in message


def test_problems_of_all_files_come_at_once(tmp_path):
    path = dataset(tmp_path, dict.fromkeys("abc", "0 0.5\n9 .5 .5 .1 .1"))
    with pytest.raises(UserError) as caught:
        scan(load_data(path), "train")
    assert all(f"{name}.txt:{line}" in str(caught.value) for name in "abc" for line in (1, 2))


def test_a_long_line_is_cut_in_the_message(tmp_path):
    path = dataset(tmp_path, {"a": "0 " + "x" * 100_000})
    with pytest.raises(UserError) as caught:
        scan(load_data(path), "train")
    assert len(str(caught.value)) < 1000


def test_boxes_are_clipped_to_the_image(tmp_path):
    rows = ["0 1.01 0.5 0.2 0.5", "0 -0.01 -0.01 0.1 0.1", "0 0.5 0.5 1.01 1.01", "0 0.9 0.5 0.5 0.5"]
    (sample,) = (result := scan(load_data(dataset(tmp_path, {"a": "\n".join(rows)})), "train")).samples
    expected = [[0.91, 0.25, 1, 0.75], [0, 0, 0.04, 0.04], [0, 0, 1, 1], [0.65, 0.25, 1, 0.75]]
    centre, half = centres(sample)[:, :2], centres(sample)[:, 2:] / 2
    torch.testing.assert_close(torch.cat((centre - half, centre + half), 1), torch.tensor(expected), rtol=0, atol=1e-6)
    assert any("a.txt:4" in note and "0.150" in note for note in result.notes)


def test_rows_without_area_and_repeated_rows_are_left_out_with_a_note(tmp_path):
    rows = ["0 .5 .5 0 .2", "0 .5 .5 .1 .1", "1 .5 .5 .1 .1", "0 0.50 0.5 0.1 0.1", "0 -.01 .5 .02 .1"]
    rows.append("1 .1 .1 .2 .1 .3 .1")  # a flat polygon
    result = scan(load_data(dataset(tmp_path, {"a": "\n".join(rows), "z": "0 .5 .5 0 0"})), "train")
    assert result.samples[0].labels.classes.tolist() == [0, 1]
    assert [note.split(": ")[0].rsplit("/", 1)[1] for note in result.notes] == [
        "a.txt:1", "a.txt:4", "a.txt:5", "a.txt:6", "z.txt:1"
    ]  # fmt: skip
    assert "line 2" in result.notes[1]
    assert (result.labelled, result.empty) == (1, 1)


def test_a_label_file_that_is_a_folder_is_a_problem(tmp_path):
    path = dataset(tmp_path, {"a": None})
    (tmp_path / "labels" / "train" / "a.txt").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be read"):
        scan(load_data(path), "train")


def test_no_label_at_all_is_refused_in_train_and_noted_in_val(tmp_path):
    spec = load_data(dataset(tmp_path, {"a": None, "b": ""}))
    with pytest.raises(UserError, match="no usable label") as caught:
        scan(spec, "train")
    assert str(tmp_path / "labels" / "train" / "a.txt") in str(caught.value)
    result = scan(spec, "val")
    assert len(result.samples) == 1 and "no usable label" in result.notes[-1]


def test_single_cls_and_the_classes_filter(tmp_path):
    spec = load_data(dataset(tmp_path, {"a": "0 .5 .5 .1 .1\n1 .5 .5 .2 .2", "b": "1 .5 .5 .3 .3"}))

    def kept(**options):
        return [sample.labels.classes.tolist() for sample in scan(spec, "train", **options).samples]

    assert kept() == [[0, 1], [1]]
    assert kept(single_cls=True) == [[0, 0], [0]]
    assert kept(classes=0) == [[0], []]
    assert kept(classes=[1]) == kept(classes=(1,)) == [[1], [1]]
    assert kept(classes=[0, 1]) == [[0, 1], [1]]
    assert kept(classes=[1], single_cls=True) == [[0], [0]]
    assert centres(scan(spec, "train", classes=0).samples[0]).tolist() == [pytest.approx([0.5, 0.5, 0.1, 0.1])]
    with pytest.raises(UserError, match=r"classes=\[2\]"):
        scan(spec, "train", classes=[0, 2])


def test_single_cls_takes_any_class_index(tmp_path):
    spec = load_data(dataset(tmp_path, {"a": "17 .5 .5 .1 .1"}))
    assert scan(spec, "train", single_cls=True).samples[0].labels.classes.tolist() == [0]
    with pytest.raises(UserError, match="class 17"):
        scan(spec, "train")


def test_a_filter_that_keeps_nothing_is_refused(tmp_path):
    spec = load_data(dataset(tmp_path, {"a": "0 .5 .5 .1 .1"}))
    with pytest.raises(UserError, match=r"no usable label of classes=\[1\]"):
        scan(spec, "train", classes=1)


def test_read_labels_tells_absent_from_empty(tmp_path):
    assert read_labels(tmp_path / "absent.txt", 1) is None
    (tmp_path / "empty.txt").write_text("")
    empty = read_labels(tmp_path / "empty.txt", 1)
    assert len(empty.labels) == 0 and empty.problems == () and empty.notes == ()
