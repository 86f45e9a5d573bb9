"""Rows of labels of oriented boxes: the recorded verdicts, what is said of wrong rows, and rectangles in pixels."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.data_format import rectangle_files
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.obb_rows import EXPECTED
from bitfalcon_plugin.ops.rotated import corners_of, smallest_rectangles
from tests.helpers.labels import centres
from tests.helpers.paths import RECORDED
from tests.helpers.tiny_dataset import MINIMAL, dataset

RECORDS = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["pose-obb-labels"]
CASES = [case for case in RECORDS if case["kind"] == "obb"]
FORMAT = rectangle_files("shapes.yaml")
ROW = "0 .1 .1 .6 .2 .5 .8 .0 .7"


def scanned(folder, rows: str, split: str = "train", **settings: object):
    spec = load_data(dataset(folder, {"a": rows, "other": None}, settings.pop("yaml", MINIMAL)))
    return FORMAT.scan(spec, split, load_settings(settings))


@pytest.mark.parametrize("case", CASES, ids=[case["rows"][:40] for case in CASES])
def test_recorded_verdicts(tmp_path, case):
    of_boxes = case["kept"] and not case["polygons"]  # upstream refuses a dataset of such files as a whole
    if not case["kept"] or of_boxes:
        line = 2 if "\n" in case["rows"] else 1
        with pytest.raises(UserError, match=rf"a\.txt:{line}: "):
            scanned(tmp_path, case["rows"])
        return
    if not case["cls_cxcywh"][0][4]:  # without area: upstream leaves it out later
        with pytest.raises(UserError, match="no usable label"):
            scanned(tmp_path, case["rows"])
        return
    sample = scanned(tmp_path, case["rows"]).samples[0]
    labels, expected = sample.labels, torch.tensor(case["cls_cxcywh"])
    assert labels.classes.tolist() == expected[:, 0].tolist() and labels.polygons.rectangles
    sides = expected[:, 1:3] - expected[:, 3:] / 2, expected[:, 1:3] + expected[:, 3:] / 2
    if all(((0 <= side) & (side <= 1)).all() for side in sides):  # otherwise it is the hull of the visible part
        torch.testing.assert_close(centres(sample), expected[:, 1:])
    ring = torch.tensor(case["polygons"][0])
    if len(ring) == 4:  # corners stay as they are, also outside of the image
        assert torch.equal(labels.polygons.points, ring)


@pytest.mark.parametrize(
    "row, text",
    [
        ("0 .5 .5 .4 .4", "'0 .5 .5 .4 .4' is an upright box; an oriented box is written as its four corners"),
        ("0 .5 .5 .4 .4 1.57", "6 columns in '0 .5 .5 .4 .4 1.57' look like a centre, a size and an angle"),
        ("0 .1 .1 .6 .2 .5 .8 .0", f"8 columns in '0 .1 .1 .6 .2 .5 .8 .0'; {EXPECTED}"),
        ("0,.1,.1", f"1 column in '0,.1,.1'; {EXPECTED}"),
        ("0 .5 .5 .4 .4 .4 .4 2", "8 columns look like class, box and 1 keypoints"),
        (
            "0 -.5 .5 .4 .3 .45 .4 -.45 .6",  # the middle of its hull lies at x = -.025
            "x4 = -.45 is outside the image; expected a share of its side, 0 to 1, not pixels. Corners may lie "
            "outside; the middle of their hull may not, nor",
        ),
        ("0 100 100 600 200 500 800 0 700", "x1 = 100, y1 = 100 and 5 more are outside the image; expected shares"),
        ("0 .1 .1 .6 .2 .5 .8 .0 .7 .9", f"10 columns in '0 .1 .1 .6 .2 .5 .8 .0 .7 .9'; {EXPECTED}. No score"),
        (".1 .1 .6 .2 .5 .8 .0 .7", f"8 columns in '.1 .1 .6 .2 .5 .8 .0 .7'; {EXPECTED}. Is the class missing?"),
        (
            "ship .1 .1 .6 .2 .5 .8 .0 .7",
            "'ship' where a finite number is expected; the class is written as its number",
        ),
        ("0,.1,.1,.6,.2,.5,.8,.0,.7", "1 column in '0,.1,.1,.6,.2,.5,.8,.0,.7'"),
        ("0, .1, .1, .6, .2, .5, .8, .0, .7", "'0,', '.1,', '.1,', '.6,', '.2,', '.5,', '.8,', '.0,' where a finite"),
        ("1 2 3 2 3 4 1 4 plane", "'1 2 3 2 3 4 1 4 plane' is a line of DOTA's labels; convert the dataset: bitfalcon"),
        ("1 2 3 2 3 4 1 4 large-vehicle 0", "'1 2 3 2 3 4 1 4 large-vehicle 0' is a line of DOTA's labels"),
        ("gsd:0.146", "'gsd:0.146' is a line of DOTA's labels"),
        ("7 .1 .1 .6 .2 .5 .8 .0 .7", "class 7 is outside 0 to 1"),
        ("0 .1 .1 .6 .2 .5 nan .0 .7", "'nan' where a finite number is expected"),
    ],
)
def test_wrong_rows_are_told_by_file_and_line(tmp_path, row, text):
    with pytest.raises(UserError) as caught:
        scanned(tmp_path, f"{ROW}\n\n{row}\n")
    assert f"a.txt:3: {text}" in str(caught.value) and str(caught.value).count("a.txt:") == str(caught.value).count(
        ":3: "
    )


def test_a_dataset_of_poses_says_what_it_is(tmp_path):
    with pytest.raises(UserError, match="a.txt:1: '0 .5 .5 .4 .4 .4 .4 2' is a row of a dataset of poses"):
        scanned(tmp_path, "0 .5 .5 .4 .4 .4 .4 2", yaml={**MINIMAL, "kpt_shape": [1, 3]})


def test_other_polygons_become_the_rectangles_around_them_in_pixels(tmp_path):
    """In an image of 32 x 24 pixels a rectangle in shares is none in pixels."""
    box = torch.tensor([16.0, 12, 20, 8, 0.6], dtype=torch.float64)
    corners = corners_of(box)
    ring = torch.cat([corners, (corners[3:] + corners[:1]) / 2])  # five points
    size = torch.tensor([32, 24], dtype=torch.float64)
    rows = "\n".join(f"0 {' '.join(map(str, (part / size).flatten().tolist()))}" for part in (ring, ring[:3]))
    sample = scanned(tmp_path, rows).samples[0]
    height, width = sample.size
    assert (width, height) == (32, 24) and sample.labels.polygons.counts.tolist() == [4, 4]
    five, three = sample.pixel_labels().oriented.tolist()
    assert five == pytest.approx(box.tolist(), abs=1e-4)
    assert three[2] * three[3] == pytest.approx(160, rel=1e-4)  # twice the triangle
    assert math.isfinite(three[4])


@pytest.mark.parametrize(
    "row", ["0 .1 .1 .2 .2 .3 .3 .4 .4", "0 .1 .3 .4 .3 .2 .3", "0 .333333 .1 .5 .2 .666667 .3 0 -.1"]
)
def test_points_on_a_line_are_no_rectangle(tmp_path, row):
    result = scanned(tmp_path, f"{ROW}\n{row}")
    assert len(result.samples[0].labels) == 1 and "a.txt:2: a box or an outline without area" in result.notes[0]
    narrow = scanned(tmp_path / "b", "0 .1 .1 .4 .4 .401 .399 .101 .099").samples[0].pixel_labels()
    assert 0.02 < float(narrow.oriented[0, 3]) < 0.05


def test_classes_can_be_chosen_and_merged(tmp_path):
    rows = f"{ROW}\n1 .3 .3 .5 .3 .5 .4 .3 .4"
    assert scanned(tmp_path / "a", rows, classes=[1]).samples[0].labels.polygons.counts.tolist() == [4]
    assert scanned(tmp_path / "b", rows, single_cls=True).samples[0].labels.classes.tolist() == [0, 0]
    backgrounds = scanned(tmp_path / "c", rows).samples[1].labels
    assert len(backgrounds) == 0 and backgrounds.oriented is None


def test_the_box_is_the_hull_inside_the_image(tmp_path):
    sample = scanned(tmp_path, "0 .8 .8 1.1 .9 1.0 1.15 .7 1.05").samples[0]
    np.testing.assert_allclose(sample.labels.boxes.tolist(), [[0.7, 0.8, 1, 1]], atol=0.02)
    assert centres(sample).shape == (1, 4)
    whole = smallest_rectangles(sample.pixel_labels().polygons.points.view(1, 4, 2))
    torch.testing.assert_close(sample.pixel_labels().oriented, whole)
