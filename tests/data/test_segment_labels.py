"""What label files of a segmentation dataset may hold: one test for each row of spec/segment-classify.md 1.4."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.dataset import Scan, scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.tasks import TASKS
from tests.helpers.tiny_dataset import dataset

TRIANGLE = "0 .1 .2 .5 .2 .3 .6"
BOX = "1 .5 .5 .2 .4"


def read(folder, files, **settings) -> Scan:
    """The scan of the training images of a segmentation dataset with these label files."""
    options = load_settings({"mode": "train", "task": "segment", **settings})
    return TASKS["segment"].data.scan(load_data(dataset(folder, files)), "train", options)


def rings(result: Scan) -> list[list[list[list[float]]]]:
    """For each image the points of each of its polygons, rounded."""
    polygons = [sample.labels.polygons for sample in result.samples]
    return [
        [] if part is None else [(ring * 1e4).round().div(1e4).tolist() for ring in part.split()] for part in polygons
    ]


def test_rows_of_more_than_six_fields_are_polygons(tmp_path):
    result = read(tmp_path, {"a": f"{TRIANGLE}\n1 .1 .1 .9 .1 .9 .9 .1 .9", "b": TRIANGLE})
    assert [len(sample.labels) for sample in result.samples] == [2, 1] and result.polygons == 3
    (first, second), (third,) = rings(result)
    assert first == third == [pytest.approx(point) for point in [[0.1, 0.2], [0.5, 0.2], [0.3, 0.6]]]
    assert len(second) == 4 and result.samples[0].labels.classes.tolist() == [0, 1] and result.notes == ()


AMONG_POLYGONS = {"a": f"{TRIANGLE}\n{BOX}\n\n{TRIANGLE}", "b": TRIANGLE, "c": BOX}
ALONE = {"a": f"\n{BOX}", "c": f"{BOX}\n0 .1 .1 .3 .3"}


@pytest.mark.parametrize("files", [AMONG_POLYGONS, ALONE], ids=["among polygons", "alone"])
def test_rows_of_five_fields_are_one_error_that_names_every_one_and_the_repair(tmp_path, files):
    """The two vertices of a row of five fields are a box: no outline is guessed, and no polygon is lost."""
    with pytest.raises(UserError) as caught:
        read(tmp_path, files)
    message = str(caught.value)
    for name, text in files.items():
        for line, row in enumerate(text.split("\n"), start=1):
            assert (f"{name}.txt:{line}: the row '{row}' is a box" in message) == (len(row.split()) == 5)
    assert "boxes_without_masks=True" in message and "task=detect" in message


def test_hundreds_of_boxes_are_all_listed(tmp_path):
    with pytest.raises(UserError) as caught:
        read(tmp_path, {"a": "\n".join(f"0 .5 .5 .2 .{index + 100}" for index in range(300)), "b": BOX})
    message = str(caught.value)
    assert all(f"a.txt:{line}: " in message for line in range(1, 301)) and "b.txt:1: " in message


def test_boxes_are_taken_where_that_is_asked_for(tmp_path):
    result = read(tmp_path, {"a": f"{TRIANGLE}\n{BOX}", "b": BOX}, boxes_without_masks=True)
    assert [sample.labels.has_polygon.tolist() for sample in result.samples] == [[True, False], [False]]
    torch.testing.assert_close(result.samples[1].labels.boxes, torch.tensor([[0.4, 0.3, 0.6, 0.7]]))
    assert "3 boxes, 1 of them outlined" in TASKS["segment"].data.describe(result)


@pytest.mark.parametrize("row, words", [
    ("0 .1 .1 .2 .2 .3", "6 columns"), ("0 .1 .1 .2 .2 .3 .3 .4", "8 columns"), ("0 .1 .1", "3 columns"),
    ("0 .1 .1 .2 x .3 .3", "'x' where a finite number"), ("2 .1 .1 .2 .1 .3 .3", "class 2 is outside 0 to 1"),
])  # fmt: skip
def test_rows_that_are_no_polygon_are_errors_with_file_and_line(tmp_path, row, words):
    for allowed in (False, True):
        with pytest.raises(UserError, match=rf"(?s)a\.txt:2: .*{words}"):
            read(tmp_path, {"a": f"{TRIANGLE}\n{row}"}, boxes_without_masks=allowed)


def test_images_without_labels_are_backgrounds(tmp_path):
    result = read(tmp_path, {"a": TRIANGLE, "b": "", "c": None, "d": " \n\n"})
    assert (result.labelled, result.missing, result.empty) == (1, 1, 2)
    assert [len(sample.labels) for sample in result.samples] == [1, 0, 0, 0] and result.notes == ()


def test_the_box_of_a_polygon_spans_its_vertices(tmp_path):
    concave = "0 .2 .3 .8 .1 .5 .4 .9 .7"
    (sample,) = read(tmp_path, {"a": concave}).samples
    torch.testing.assert_close(sample.labels.boxes, torch.tensor([[0.2, 0.1, 0.9, 0.7]]))


def test_a_vertex_outside_is_cut_off_and_said(tmp_path):
    """The tip of a triangle lies a tenth outside: centre and size of its box are those of a box that is taken."""
    result = read(tmp_path, {"a": "0 .6 .2 1.1 .4 .6 .6"})
    ((ring,),) = rings(result)
    assert sorted(ring) == [pytest.approx(p) for p in [[0.6, 0.2], [0.6, 0.6], [1, 0.36], [1, 0.44]]]
    (sample,) = result.samples
    torch.testing.assert_close(sample.labels.boxes, torch.tensor([[0.6, 0.2, 1, 0.6]]))
    (note,) = result.notes
    assert "a.txt:1: the outline reaches 0.100 of a side beyond the image, cut" in note
    quiet = read(tmp_path, {"a": "0 .6 .2 1.005 .4 .6 .6"})  # what rounding explains
    assert quiet.notes == () and rings(quiet)[0][0][1] == pytest.approx([1, 0.4])


def test_a_polygon_whose_box_lies_outside_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"(?s)a\.txt:1: x2 = 320 is outside.*x3 = 200 .*not pixels"):
        read(tmp_path, {"a": "0 .1 .2 320 .2 200 .6"})
    with pytest.raises(UserError, match=r"y1 = -\.4 is outside"):
        read(tmp_path, {"a": "0 .1 -.4 .5 -.4 .3 .1"})


def test_a_polygon_without_area_is_left_out_and_said(tmp_path):
    result = read(tmp_path, {"a": f"0 .1 .2 .5 .2 .3 .2\n{TRIANGLE}"})
    assert result.polygons == 1 and len(result.samples[0].labels) == 1
    (note,) = result.notes
    assert "a.txt:1: a box or an outline without area, left out" in note


def test_repeated_rows_are_left_out_and_said_and_others_keep_their_order(tmp_path):
    """Polygons with the same box are different objects, and those of different classes too."""
    other, again, reclassed = "0 .1 .6 .5 .6 .3 .2", "0 0.10 .20 .5 .2 .3 .6", "1 .1 .2 .5 .2 .3 .6"
    result = read(tmp_path, {"a": "\n".join([other, TRIANGLE, again, reclassed])})
    (sample,) = result.samples
    assert sample.labels.classes.tolist() == [0, 0, 1] and torch.equal(sample.labels.boxes[0], sample.labels.boxes[1])
    assert rings(result)[0][0][0] == pytest.approx([0.1, 0.6]) and rings(result)[0][1][0] == pytest.approx([0.1, 0.2])
    (note,) = result.notes
    assert "a.txt:3: the same row as line 2, left out" in note


def test_detection_takes_the_boxes_of_polygons_and_keeps_the_polygons(tmp_path):
    result = scan(load_data(dataset(tmp_path, {"a": f"{TRIANGLE}\n{BOX}"})), "train")
    torch.testing.assert_close(
        result.samples[0].labels.boxes, torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.4, 0.3, 0.6, 0.7]])
    )
    assert result.samples[0].labels.has_polygon.tolist() == [True, False]


def test_no_polygon_of_a_sound_dataset_is_lost(tmp_path):
    """Every polygon of 200 rows of all kinds is read, whatever the number of its vertices."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for index in range(200):
        points = torch.rand(3 + index % 40, 2, generator=draw)
        rows.append(f"{index % 2} " + " ".join(f"{value:.6g}" for value in points.flatten().tolist()))
    result = read(tmp_path, {str(index): "\n".join(rows[index::7]) for index in range(7)})
    assert result.polygons == 200 and result.notes == ()
    counts = sorted(count for sample in result.samples for count in sample.labels.polygons.counts.tolist())
    assert counts == sorted(3 + index % 40 for index in range(200))


def test_single_class_and_class_filter_keep_outlines_with_their_objects(tmp_path):
    files = {"a": f"{TRIANGLE}\n1 .1 .1 .9 .1 .9 .9 .1 .9"}
    (chosen,), (single,) = read(tmp_path, files, classes=[1]).samples, read(tmp_path, files, single_cls=True).samples
    assert chosen.labels.polygons.counts.tolist() == [4] and single.labels.classes.tolist() == [0, 0]
    assert replace(single.labels, polygons=None).has_polygon.tolist() == [False, False]
