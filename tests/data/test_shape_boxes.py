"""The generated dataset of oriented boxes: the same every time, rectangles around the painted pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data import shape_boxes, shapes
from bitfalcon_plugin.data.data_format import rectangle_files
from bitfalcon_plugin.ops.rotated import rectangles_of

# Recorded once: the pictures of a version must not change from machine to machine, nor from release to release.
FIRST = "1 0.447243 0.373485 0.535184 0.469081 0.697051 0.261337 0.609111 0.165742\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache folder with the first images of the dataset."""
    folder = tmp_path_factory.mktemp("shapes-obb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", {"train": 17, "val": 4})
        patch.setenv("BITFALCON_CACHE", str(folder))
        yield folder


def test_the_packaged_name_leads_to_labels_of_oriented_boxes(folder):
    form, settings = rectangle_files("shapes-obb.yaml"), load_settings({})
    spec = form.load("shapes-obb", settings)
    assert list(spec.names.values()) == list(shape_boxes.ASPECTS) and spec.settings["degrees"] == 180
    assert (folder / "shapes-obb-v1" / "labels" / "train" / "0004.txt").read_text() == FIRST
    train, val = (form.scan(spec, split, settings) for split in ("train", "val"))
    assert (len(train.samples), train.empty, len(val.samples)) == (17, 1, 4) and train.notes == val.notes == ()
    aspects = list(shape_boxes.ASPECTS.values())
    angles = []
    for sample in (*train.samples, *val.samples):
        labels = sample.pixel_labels()
        if len(labels):
            boxes = labels.oriented
            assert boxes[:, 3].min() > shape_boxes.SHORTEST - 0.1
            expected = torch.tensor([aspects[index] for index in labels.classes.tolist()])
            torch.testing.assert_close(boxes[:, 2] / boxes[:, 3], expected, rtol=0.02, atol=0)
            angles += boxes[:, 4].tolist()
    assert len(angles) > 40 and np.ptp(angles) > 0.9 * math.pi


def test_rectangles_are_tight_around_the_painted_pixels():
    """The smallest rectangle around the painted pixels of an object that lies wholly inside the picture."""
    random, size, seen = RandomState(5), (240, 320), 0
    for _ in range(120):
        shape = shape_boxes._random_object(random, size)
        corners = shape_boxes.corners_of_object(shape)
        if corners.min() < 0 or corners[:, 0].max() > size[1] or corners[:, 1].max() > size[0]:
            continue
        seen += 1
        canvas = np.full((*size, 3), -1000.0)
        shapes.paint(canvas, shape, RandomState(0))
        y, x = (torch.from_numpy(part) for part in np.nonzero((canvas != -1000).any(2)))
        cos_sin = torch.from_numpy(corners[1] - corners[0]) / np.linalg.norm(corners[1] - corners[0])
        for axis in (cos_sin, torch.stack([-cos_sin[1], cos_sin[0]])):
            pixels = (x + 0.5) * axis[0] + (y + 0.5) * axis[1]
            edges = torch.from_numpy(corners) @ axis
            assert abs(pixels.min() - edges.min()) < 1.6 and abs(pixels.max() - edges.max()) < 1.6
        ring = torch.from_numpy(corners)
        box = rectangles_of(shapes.Polygons(ring, torch.tensor([4])))[0]
        assert box[2] * box[3] == pytest.approx(abs(np.linalg.det([corners[1] - corners[0], corners[3] - corners[0]])))
    assert seen > 40
