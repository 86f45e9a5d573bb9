"""An object of several rings, parts and holes, is one outline with bridges of no width: read, cut, filled, measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from bitfalcon_plugin.data.dataset import Sample, scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.ops.encoded_masks import EncodedMasks
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.outlines import one_ring
from bitfalcon_plugin.ops.polygons import Polygons, clip, fill_each
from bitfalcon_plugin.tasks.segment import evaluate_segments, read_segment
from bitfalcon_plugin.val.pictures import _outlined
from tests.helpers.tiny_dataset import dataset, image

cv2 = pytest.importorskip("cv2", reason="OpenCV fills the planes that are compared with")
WIDTH, HEIGHT = 96, 64
BODY = np.array([[8.0, 8], [60, 8], [60, 56], [8, 56]])
HOLES = [np.array([[16.0, 16], [32, 16], [32, 40], [16, 40]]), np.array([[40.0, 30], [52, 30], [46, 48]])]
PART = np.array([[70.0, 20], [88, 30], [76, 52]])
RING = one_ring([BODY, *HOLES, PART])


def painted(rings) -> np.ndarray:
    """The plane of all rings by OpenCV's even-odd filling, without what its border line covers besides."""
    scale = 16
    plane = np.zeros((HEIGHT * scale, WIDTH * scale), np.uint8)
    cv2.fillPoly(plane, [np.round(ring * scale - 0.5).astype(np.int32) for ring in rings], 1)
    return plane[scale // 2 :: scale, scale // 2 :: scale].astype(bool)


def iou(a, b) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return (a & b).sum() / (a | b).sum()


def polygons_of(ring: np.ndarray) -> Polygons:
    return Polygons(torch.from_numpy(ring), torch.tensor([len(ring)]))


def test_holes_stay_empty_and_parts_are_filled():
    found = fill_each(polygons_of(RING), (HEIGHT, WIDTH))[0]
    truth = painted([BODY, *HOLES, PART])
    assert iou(found, truth) > 0.985 and not found[20:38, 18:30].any() and found[30:34, 76:80].all()


@pytest.mark.parametrize("degrees", [0, 31, 90, 200])
def test_bridges_show_nowhere_after_a_map_and_a_cut(degrees):
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 1.3
    moved = [(ring - [48, 32]) @ matrix.T + [48, 32] for ring in (BODY, *HOLES, PART)]
    points = (RING - [48, 32]) @ matrix.T + [48, 32]
    found = fill_each(clip(polygons_of(points), (HEIGHT, WIDTH)), (HEIGHT, WIDTH))[0]
    assert iou(found, painted(moved)) > 0.98


def test_a_label_file_holds_them_and_ap_counts_the_holes(tmp_path):
    """A mask with holes is right up to IoU 0.95; one whose holes are filled is not."""
    row = "0 " + " ".join(f"{value:.6f}" for value in (RING / [WIDTH, HEIGHT]).ravel())
    spec = load_data(dataset(tmp_path, {"a": row}))
    image(tmp_path / "images/train/a.png", (WIDTH, HEIGHT))
    samples = scan(spec, "train", read=read_segment).samples
    assert samples[0].labels.polygons.counts.tolist() == [len(RING)]
    (code,) = EncodedMasks.of(torch.from_numpy(painted([BODY, *HOLES, PART]))[None]).codes
    assert iou(rle.decode(code).astype(bool), fill_each(samples[0].pixel_labels().polygons, (HEIGHT, WIDTH))[0]) > 0.98
    assert measured(samples, [BODY, *HOLES, PART]) > 0.95 > 0.8 > measured(samples, [BODY, PART])


def measured(samples: tuple[Sample, ...], rings) -> float:
    """The AP of masks of a detection of these rings."""
    plane = torch.from_numpy(painted(rings))[None]
    boxes, none = samples[0].pixel_labels().boxes, torch.zeros(1, dtype=torch.int64)
    found = Instances(boxes, none, torch.tensor([0.9]), none, encoded_masks=EncodedMasks.of(plane))
    return evaluate_segments(samples, found, {0: "ring", 1: "dog"}, conf=0.25).mask_ap


def test_pictures_of_labels_show_the_holes():
    labels = Instances(torch.tensor([[8.0, 8, 88, 56]]), torch.tensor([0]), polygons=polygons_of(RING))
    planes = _outlined(labels, (HEIGHT, WIDTH))
    assert planes.shape == (1, HEIGHT, WIDTH) and iou(planes[0], painted([BODY, *HOLES, PART])) > 0.985
