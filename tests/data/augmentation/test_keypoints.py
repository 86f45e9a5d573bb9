"""Keypoints through the whole augmentation: a visible point lies on its dot, and mirrors exchange left and right."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.data.augmentation.augment import augment
from bitfalcon_plugin.data.augmentation.compose import Tile
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.pose_rows import read_pose
from bitfalcon_plugin.data.loading.loader import TrainLoader, ValLoader
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.keypoints import cut_keypoints, exchange_keypoints
from bitfalcon_plugin.ops.projective import move_points
from bitfalcon_plugin.val.loop import _labels_on_canvas as labels_on_canvas
from tests.data.augmentation.test_augment import DEFAULTS, OFF, SIZE, seeded
from tests.helpers.paths import RECORDED
from tests.helpers.tiny_dataset import MINIMAL, dataset

RECORDED_POINTS = json.loads(gzip.decompress((RECORDED / "pose.json.gz").read_bytes()))["keypoints"]
DOTS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]])  # left, right, and a point that has no side
FLIP = (1, 0, 2)
RECIPE = replace(DEFAULTS, hsv_h=0, hsv_s=0, hsv_v=0, flip_idx=FLIP)


def marked(seed: int, height: int = SIZE, width: int = SIZE) -> Tile:
    """A black tile of two objects with three dots of 9 px each, whose order turns clockwise."""
    generator, image = seeded(seed), torch.zeros(3, height, width, dtype=torch.uint8)
    boxes, points = [], []
    for left, top in ((0, 0), (width // 2, height // 2)):
        x, y = (torch.rand(2, generator=generator) * 4).int().tolist()
        corners = [(left + x + 6, top + y + 6), (left + x + 34, top + y + 8), (left + x + 18, top + y + 36)]
        for dot, (column, row) in zip(DOTS, corners):
            image[:, row - 4 : row + 5, column - 4 : column + 5] = dot[:, None, None].byte()
        boxes.append([left + x + 2, top + y + 2, left + x + 39, top + y + 41])
        points.append([[column + 0.5, row + 0.5, 2.0] for column, row in corners])
    labels = Instances(torch.tensor(boxes).float(), torch.zeros(2, dtype=torch.int64), keypoints=torch.tensor(points))
    return Tile(image, labels)


def turns(points: torch.Tensor) -> torch.Tensor:
    """Twice the signed areas of triangles (n, 3, 2)."""
    (x1, y1), (x2, y2) = (points[:, 1] - points[:, 0]).T, (points[:, 2] - points[:, 0]).T
    return x1 * y2 - x2 * y1


def colours_near(image: torch.Tensor, x: float, y: float, mixed: bool = False) -> set[int]:
    """The dots that show within 2 px of a place. mixed: through another image, of which some colour is mixed in."""
    row, column = int(min(y, SIZE - 1)), int(min(x, SIZE - 1))
    part = image[:, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].flatten(1)
    if mixed:
        return set((part.amax(1) > 0.25).nonzero().flatten().tolist())
    return {index for index, dot in enumerate(DOTS) if ((part.T - dot / 255).abs() < 0.45).all(1).any()}


@pytest.mark.parametrize(
    "options",
    [
        {"mosaic": 0.0},
        {"mosaic": 1.0},
        {"mosaic": 0.5, "degrees": 30, "shear": 5, "perspective": 0.001, "flipud": 0.5},
        {"mosaic": 0.5, "cutmix": 1.0},
        {"mosaic": 0.5, "mixup": 1.0},
        {"mosaic": 0.5, "mixup": 0.5, "cutmix": 0.5, "degrees": 180, "perspective": 0.001, "flipud": 0.5},
    ],
)
def test_a_visible_point_lies_on_its_dot(options):
    recipe, tiles = replace(RECIPE, **options), [marked(seed, *size) for seed, size in enumerate([(96, 96)] * 3)]
    visible, hidden, orders = 0, 0, set()
    for seed in range(6):
        batch = augment(tiles, [], recipe, seeded(seed), "cpu")
        labels = batch.labels
        whole = (labels.keypoints[..., 2] > 0).all(1)
        assert (turns(labels.keypoints[whole][..., :2]) > 0).all()  # a mirror turns them round, the exchange back
        for image, points in zip(labels.image.tolist(), labels.keypoints.tolist()):
            mixed = bool(recipe.mixup)
            shown = [colours_near(batch.images[image], x, y, mixed) for x, y, v in points if v]
            order = [index for index, (_, _, v) in enumerate(points) if v]
            straight = all(index in colours for index, colours in zip(order, shown))
            mirrored = all(FLIP[index] in colours for index, colours in zip(order, shown))
            assert straight or mirrored, (seed, points)
            orders |= {straight} if straight != mirrored else set()
            visible, hidden = visible + len(order), hidden + 3 - len(order)
    assert visible > 50 and hidden > 0 and orders == {True, False}
    assert labels.keypoints.dtype == torch.float32 and (labels.keypoints[..., :2] <= SIZE).all()


@pytest.mark.parametrize("chances", [{"fliplr": 1.0}, {"flipud": 1.0}, {"fliplr": 1.0, "flipud": 1.0}])
def test_the_mirror_of_a_labelled_picture_exchanges_its_points_exactly(chances):
    tile = marked(0)
    batch = augment([tile], [], replace(OFF, flip_idx=FLIP, **chances), seeded(), "cpu")
    image, points = tile.image, tile.labels.keypoints
    for axis, name in ((0, "fliplr"), (1, "flipud")):
        if name in chances:
            image, points = image.flip(2 - axis), points[:, list(FLIP)].clone()
            points[..., axis] = SIZE - points[..., axis]
    assert torch.equal(batch.images[0], image / 255) and torch.equal(batch.labels.keypoints, points)


def test_mixup_carries_points_of_both_images():
    tiles = [marked(0), marked(1)]
    batch = augment(tiles, [], replace(OFF, mixup=1.0, flip_idx=FLIP), seeded(1), "cpu")
    known = [point for tile in tiles for point in tile.labels.keypoints.tolist()]
    assert len(batch.labels) == 8 and all(point in known for point in batch.labels.keypoints.tolist())


@pytest.mark.parametrize("height, width", [(61, 96), (96, 61), (190, 120), (33, 50)])
def test_points_lie_on_their_dots_in_the_letterbox_of_training_and_validation(tmp_path, height, width):
    places = [(0.2, 0.3), (0.7, 0.25), (0.45, 0.8)]
    image = np.zeros((height, width, 3), np.uint8)
    for (x, y), dot in zip(places, DOTS.numpy()):
        row, column, half = round(y * height), round(x * width), max(height, width) // 24
        image[row - half : row + half, column - half : column + half] = dot
    points = " ".join(f"{round(x * width) / width} {round(y * height) / height} 2" for x, y in places)
    keys = {**MINIMAL, "kpt_shape": [3, 3], "flip_idx": list(FLIP)}
    path = dataset(tmp_path, {"a": f"0 .45 .5 .8 .9 {points}\n"}, keys)
    Image.fromarray(image).save(tmp_path / "images/train/a.png")
    samples = scan(load_data(path), "train", read=read_pose).samples
    ((batch, _),) = TrainLoader(samples, imgsz=SIZE, batch=1, seed=0).epoch(0, replace(OFF, imgsz=SIZE))
    ((pixels, fits, indices),) = ValLoader(samples, imgsz=SIZE, batch=1, multiple=32)
    (on_canvas,) = labels_on_canvas(samples, fits, indices)
    for shown, labels in ((batch.images[0], batch.labels), (pixels[0] / 255, on_canvas)):
        for index, (x, y, v) in enumerate(labels.keypoints[0].tolist()):
            assert v == 2 and colours_near(shown, x, y) == {index}


def test_keypoints_are_not_mirrored_blindly():
    with pytest.raises(ValueError, match="flip_idx"):
        augment([marked(0)], [], replace(OFF, fliplr=0.5), seeded(), "cpu")


@pytest.mark.parametrize("case", RECORDED_POINTS["affine"], ids=lambda case: case["case"])
def test_recorded_maps(case):
    points = torch.tensor(case["in"], dtype=torch.float64)
    boxes = torch.tensor([[0, 0, 50, 50]] * len(points), dtype=torch.float64)
    maps = torch.tensor(case["M"], dtype=torch.float64).expand(len(points), 3, 3)
    labels = Instances(boxes, torch.zeros(len(points), dtype=torch.int64), keypoints=points)
    places, _ = move_points(points[..., :2].flatten(0, 1), maps.repeat_interleave(points.shape[1], 0))
    expected = torch.tensor(case["after_map"], dtype=torch.float64)[..., :2]
    torch.testing.assert_close(places.view_as(expected), expected, atol=1e-4, rtol=0)
    moved = labels.warp(maps, tuple(case["size_w_h"][::-1])).keypoints
    torch.testing.assert_close(moved, torch.tensor(case["after_clip"], dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", RECORDED_POINTS["flips"], ids=lambda case: f"{case['direction']} {case['flip_idx']}")
def test_recorded_flips(case):
    points = torch.tensor([case["in"]])
    axis = 0 if case["direction"] == "horizontal" else 1
    points[..., axis] = 1 - points[..., axis]
    exchanged = exchange_keypoints(points, torch.tensor([True]), case["flip_idx"])
    torch.testing.assert_close(exchanged, torch.tensor([case["out"]]))
    assert torch.equal(exchange_keypoints(points, torch.tensor([False]), case["flip_idx"]), points)


def test_each_object_is_cut_to_its_own_region():
    points = torch.tensor([[[5.0, 5, 2], [10, 0, 1]]] * 2)
    cut = cut_keypoints(points, torch.tensor([[0.0, 0, 10, 10], [6, 0, 9, 4]]))
    assert cut.tolist() == [[[5, 5, 2], [10, 0, 1]], [[6, 4, 0], [9, 0, 0]]]


@pytest.mark.parametrize("flip, mirrored", [(None, False), ([1, 0], True)])
def test_loaders_mirror_only_with_flip_idx(tmp_path, flip, mirrored):
    row = "0 .5 .5 .8 .8 .25 .25 2 .75 .5 0\n"
    path = dataset(tmp_path, {"a": row, "b": ""}, {**MINIMAL, "kpt_shape": [2, 3], "flip_idx": flip})
    samples = scan(load_data(path), "train", read=read_pose).samples
    loader = TrainLoader(samples, imgsz=64, batch=2, seed=0, multi_scale=0.5)
    ((batch, _),) = loader.epoch(0, replace(OFF, imgsz=64, fliplr=1.0))
    side = batch.images.shape[-1]
    place = [[0.25, 0.5, 0], [0.75, 0.3125, 2]] if mirrored else [[0.25, 0.3125, 2], [0.75, 0.5, 0]]
    expected = torch.tensor([place]) * torch.tensor([side, side, 1])
    torch.testing.assert_close(batch.labels.keypoints, expected)
    assert side != 64
