"""Transforms of one image: labels against the pixels that they name, and values against OpenCV, colorsys and hand."""

from __future__ import annotations

import colorsys
import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.dropin.data.augment import (
    Albumentations,
    CenterCrop,
    ClassifyLetterBox,
    Compose,
    CopyPaste,
    CutMix,
    Format,
    LetterBox,
    MixUp,
    Mosaic,
    RandomFlip,
    RandomHSV,
    RandomPerspective,
    ToTensor,
    classify_augmentations,
    classify_transforms,
    v8_transforms,
)
from bitfalcon_plugin.dropin.utils.instance import Instances

HYP = {
    "mosaic": 1.0, "mixup": 0.0, "cutmix": 0.0, "copy_paste": 0.0, "copy_paste_mode": "flip", "degrees": 0.0,
    "translate": 0.1, "scale": 0.5, "shear": 0.0, "perspective": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0,
    "flipud": 0.0, "fliplr": 0.5, "bgr": 0.0,
}  # fmt: skip


def labels_of(size=(60, 80), count=3, seed=0, outlines=False, keypoints=False) -> dict:
    """A grey image with rectangles in colours of their classes, and its labels. Class k has green 40 (k + 1)."""
    random_ = np.random.default_rng(seed)
    image = np.full((*size, 3), 114, np.uint8)
    boxes = []
    for number in range(count):
        width, height = random_.integers(12, 20, 2)
        x, y = 2 + number * 24 + int(random_.integers(0, 4)), int(random_.integers(0, size[0] - height))
        image[y : y + height, x : x + width] = (0, 40 * (number + 1), 255)
        boxes.append((x, y, x + width, y + height))
    corners = np.array(boxes, np.float32)
    rings = corners[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    points = np.concatenate([rings[:, [0, 1]], np.full((count, 2, 1), 2, np.float32)], -1) if keypoints else None
    instances = Instances(corners, rings if outlines else None, points, "xyxy", normalized=False)
    return {
        "im_file": f"{seed}.jpg", "img": image, "cls": np.arange(count, dtype=np.float32)[:, None],
        "instances": instances, "ori_shape": size, "resized_shape": size,
    }  # fmt: skip


class Drawn:
    """A dataset of such images."""

    def __init__(self, size=(60, 80), outlines=False):
        self.size, self.outlines, self.buffer, self.data, self.use_keypoints = size, outlines, [], {}, False

    def __len__(self):
        return 6

    def get_image_and_label(self, index):
        return labels_of(self.size, seed=index, outlines=self.outlines)


def pixels_of(image: np.ndarray, number: int) -> np.ndarray:
    """Where an image BGR shows class `number`, nearly in its own colour."""
    blue, green, red = (image[..., channel].astype(int) for channel in range(3))
    return (red > 235) & (blue < 20) & (abs(green - 40 * (number + 1)) < 14)


def check(labels: dict, tolerance: float = 1.5) -> int:
    """Every object of a class lies where its colour is, and the colour only where objects are. Returns their number."""
    instances = labels["instances"]
    instances.convert_bbox("xyxy")
    instances.denormalize(*labels["img"].shape[1::-1])
    assert len(labels["cls"]) == len(instances)
    for number in range(3):
        shown, rest = pixels_of(labels["img"], number), pixels_of(labels["img"], number)
        for x1, y1, x2, y2 in instances.bboxes[labels["cls"][:, 0] == number]:
            top, left = max(int(y1) - 1, 0), max(int(x1) - 1, 0)
            around = slice(top, int(y2) + 2), slice(left, int(x2) + 2)
            rows, columns = np.nonzero(shown[around])
            found = columns.min() + left, rows.min() + top, columns.max() + 1 + left, rows.max() + 1 + top
            assert np.abs(np.subtract(found, (x1, y1, x2, y2))).max() <= tolerance, (found, (x1, y1, x2, y2))
            rest[around] = False
        assert rest.sum() < 80  # slivers whose label is dropped
    return len(instances)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mosaic": 0.0, "scale": 0.2},
        {"flipud": 1.0, "fliplr": 1.0, "translate": 0.3},
        {"mosaic": 0.0, "scale": (0.8, 1.3)},
        {"cutmix": 1.0, "mosaic": 0.0, "scale": 0.0, "translate": 0.0},
    ],
)
@pytest.mark.parametrize("outlines", [False, True])
def test_the_row_of_transforms_keeps_labels_on_their_objects(changes, outlines):
    random.seed(0)
    dataset = Drawn(outlines=outlines)
    transforms = v8_transforms(dataset, 80, SimpleNamespace(**{**HYP, **changes}))
    count = sum(check(transforms(dataset.get_image_and_label(index))) for index in range(6))
    assert count >= 8


def test_turned_and_tilted_objects_are_within_their_boxes():
    random.seed(1)
    transform = RandomPerspective(degrees=40, shear=10, perspective=0.001, scale=0.1, translate=0.0)
    for seed in range(5):
        labels = transform(labels_of((80, 80), seed=seed, outlines=True))
        for box, number in zip(labels["instances"].bboxes, labels["cls"][:, 0], strict=True):
            rows, columns = np.nonzero(pixels_of(labels["img"], int(number)))
            assert abs(columns.min() - box[0]) < 2.5 and abs(columns.max() + 1 - box[2]) < 2.5
            assert abs(rows.min() - box[1]) < 2.5 and abs(rows.max() + 1 - box[3]) < 2.5


def test_the_map_that_does_nothing_leaves_image_and_labels():
    before, after = labels_of(), RandomPerspective(0, 0, 0)(labels_of())
    assert np.array_equal(before["img"], after["img"])
    np.testing.assert_allclose(before["instances"].bboxes, after["instances"].bboxes, atol=1e-4)
    assert np.array_equal(before["cls"], after["cls"])


def test_a_mosaic_holds_the_images_around_its_centre():
    random.seed(3)
    dataset = Drawn((60, 80))
    labels = Mosaic(dataset, imgsz=80, p=1.0)(dataset.get_image_and_label(0))
    assert labels["img"].shape == (160, 160, 3) and labels["mosaic_border"] == (-40, -40)
    assert labels["im_file"] == "0.jpg" and "mix_labels" not in labels and labels["resized_shape"] == (160, 160)
    assert check(labels) >= 6
    dataset.buffer = [4, 4, 4]
    assert Mosaic(dataset, imgsz=80).get_indexes() == [4, 4, 4]
    with pytest.raises(NotImplementedError, match="n=9"):
        Mosaic(dataset, n=9)


def test_mixup_is_the_weighted_mean_with_all_labels(monkeypatch):
    dataset = Drawn()
    monkeypatch.setattr(random, "betavariate", lambda a, b: 0.25)
    monkeypatch.setattr(random, "randrange", lambda count: 5)
    labels = MixUp(dataset, p=1.0)(dataset.get_image_and_label(0))
    first, second = labels_of(seed=0), labels_of(seed=5)
    expected = (first["img"] * 0.25 + second["img"] * 0.75).astype(np.uint8)
    assert np.abs(labels["img"].astype(int) - expected).max() <= 1
    expected = np.concatenate([first["instances"].bboxes, second["instances"].bboxes])
    assert np.array_equal(labels["instances"].bboxes, expected) and labels["cls"][:, 0].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("mode", ["flip", "mixup"])
def test_pasted_objects_are_there_in_pixels_and_labels(mode):
    random.seed(2)
    dataset, pasted = Drawn((60, 100), outlines=True), 0
    for index in range(6):
        labels = CopyPaste(dataset, p=1.0, mode=mode)(dataset.get_image_and_label(index))
        assert len(labels["instances"]) == len(labels["instances"].segments) == len(labels["cls"])
        pasted += len(labels["cls"]) - 3
        for number in range(3):  # the colour of a class fills its boxes, and nothing else, but for what hides them
            inside = np.zeros((60, 100), bool)
            for x1, y1, x2, y2 in labels["instances"].bboxes[labels["cls"][:, 0] == number].astype(int):
                inside[y1:y2, x1:x2] = True
            shown = pixels_of(labels["img"], number)
            assert not (shown & ~inside).any() and (shown & inside).sum() > 0.7 * inside.sum()
    assert pasted > 0
    bare = labels_of()
    assert CopyPaste(p=1.0)(bare) is bare  # without outlines nothing is pasted


def test_cutmix_without_room_changes_nothing():
    dataset = Drawn()
    labels = dataset.get_image_and_label(0)
    labels["instances"] = Instances(np.array([[0, 0, 80, 60]], np.float32), bbox_format="xyxy", normalized=False)
    labels["cls"] = np.zeros((1, 1), np.float32)
    after = CutMix(dataset, p=1.0)(copy.deepcopy(labels))
    assert np.array_equal(after["img"], labels["img"]) and len(after["cls"]) == 1


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flips_mirror_the_image_and_its_labels(direction):
    labels = RandomFlip(p=1.0, direction=direction, flip_idx=[1, 0])(labels_of(keypoints=True))
    flip = np.fliplr if direction == "horizontal" else np.flipud
    assert np.array_equal(labels["img"], flip(labels_of()["img"])) and check(labels, 0.01) == 3
    boxes, points = labels["instances"].bboxes, labels["instances"].keypoints
    # the points at the upper corners have changed places, and a vertical mirror has put them at the lower ones
    corner = [0, 1] if direction == "horizontal" else [2, 3]
    np.testing.assert_allclose(points[:, 0, :2], boxes[:, corner], atol=1e-4)
    assert RandomFlip(p=0.0)(same := labels_of()) is same


def test_colours_change_like_colorsys_changes_them(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    monkeypatch.setattr(random, "random", lambda: 0.8)
    changed = RandomHSV(0.1, 0.5, 0.4)({"img": image.copy()})["img"]
    for before, after in zip(image.reshape(-1, 3)[:, ::-1] / 255, changed.reshape(-1, 3)[:, ::-1], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        gains = [0.6 * gain for gain in (0.1, 0.5, 0.4)]
        new = (hue + gains[0]) % 1, min(saturation * (1 + gains[1]), 1), min(value * (1 + gains[2]), 1)
        np.testing.assert_allclose(after, np.array(colorsys.hsv_to_rgb(*new)) * 255, atol=0.6)
    assert RandomHSV(0, 0, 0)({"img": image})["img"] is image


# shape, arguments, and the shape that comes out (spec: verified ones)
LETTERBOXES = [
    ((480, 641), {"auto": True}, (480, 640)),
    ((1080, 810), {"auto": True}, (640, 480)),
    ((33, 640), {"auto": True}, (64, 640)),
    ((427, 640), {}, (640, 640)),
    ((100, 50), {"new_shape": 64, "scaleup": False}, (64, 64)),
    ((30, 20), {"new_shape": (64, 96), "scaleup": False}, (64, 96)),
    ((30, 20), {"new_shape": (64, 96), "center": False}, (64, 96)),
    ((30, 20), {"new_shape": (64, 96), "scaleFill": True}, (64, 96)),
]


@pytest.mark.parametrize(("size", "options", "expected"), LETTERBOXES)
def test_the_letterbox_is_opencvs_resize_between_grey(size, options, expected):
    image = np.random.default_rng(0).integers(0, 100, (*size, 3), dtype=np.uint8)
    result = LetterBox(**options)(image=image)
    assert result.shape == (*expected, 3) and result.dtype == np.uint8
    inside = (result != 114).any(-1)
    rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if options.get("center", True):
        assert 0 <= (expected[0] - bottom) - top <= 1 and 0 <= (expected[1] - right) - left <= 1
    else:
        assert top == left == 0
    opencv = pytest.importorskip("cv2")
    assert np.array_equal(result[top:bottom, left:right], opencv.resize(image, (right - left, bottom - top)))


def test_the_letterbox_of_a_dict_moves_its_labels():
    labels = {**labels_of(), "ratio_pad": (0.5, 0.5), "rect_shape": np.array([96, 160])}
    labels = LetterBox((64, 64))(labels)
    assert labels["img"].shape == (96, 160, 3) and labels["resized_shape"] == (96, 160) and "rect_shape" not in labels
    assert labels["ratio_pad"] == ((0.5, 0.5), (16, 0)) and check(labels) == 3
    assert LetterBox(32)(image=np.zeros((20, 40), np.uint8)).shape == (32, 32, 1)


def test_format_makes_tensors_of_shares():
    labels = Format(return_keypoint=True)(labels_of(keypoints=True))
    before = labels_of(keypoints=True)
    assert labels["img"].shape == (3, 60, 80) and labels["img"].is_contiguous()
    assert np.array_equal(labels["img"].permute(1, 2, 0).numpy(), before["img"][..., ::-1])
    assert labels["cls"].shape == (3, 1) and labels["batch_idx"].tolist() == [0, 0, 0]
    x1, y1, x2, y2 = before["instances"].bboxes.T
    expected = np.stack([(x1 + x2) / 160, (y1 + y2) / 120, (x2 - x1) / 80, (y2 - y1) / 60], 1)
    np.testing.assert_allclose(labels["bboxes"].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(
        labels["keypoints"][..., 0].numpy() * 80, before["instances"].keypoints[..., 0], atol=1e-4
    )
    empty = labels_of()
    empty["instances"], empty["cls"] = empty["instances"][np.zeros(3, bool)], empty["cls"][:0]
    empty = Format(return_mask=True, bgr=1.0)(empty)
    assert empty["bboxes"].shape == (0, 4) and empty["cls"].shape == (0, 1) and empty["masks"].shape == (1, 15, 20)
    assert np.array_equal(empty["img"].permute(1, 2, 0).numpy(), before["img"])


def test_format_numbers_masks_from_large_to_small():
    before = labels_of(outlines=True)
    plain = Format(return_mask=True, mask_overlap=False, mask_ratio=1)(labels_of(outlines=True))
    for mask, number in zip(plain["masks"].numpy(), range(3), strict=True):
        assert np.array_equal(mask > 0, pixels_of(before["img"], number))
    ordered = Format(return_mask=True, mask_ratio=1)(labels_of(outlines=True))
    areas = plain["masks"].flatten(1).sum(1)
    for position, number in enumerate(areas.argsort(descending=True, stable=True).tolist()):
        assert ordered["cls"][position] == number
        assert np.array_equal(ordered["masks"][0].numpy() == position + 1, pixels_of(before["img"], number))


def test_format_gives_oriented_boxes():
    labels = Format(return_obb=True)(labels_of(outlines=True))
    x1, y1, x2, y2 = labels_of()["instances"].bboxes.T
    cx, cy, long, short, angle = labels["bboxes"].T.double()
    np.testing.assert_allclose(cx * 80, (x1 + x2) / 2, atol=1e-4)
    np.testing.assert_allclose(cy * 60, (y1 + y2) / 2, atol=1e-4)
    assert labels["bboxes"].shape == (3, 5) and (long * 80 >= 12 - 1e-4).all() and (short > 0).all()
    assert ((angle.abs() < 1e-6) | ((angle - np.pi / 2).abs() < 1e-6)).all()


def test_compose_is_a_list_that_can_be_called():
    double, add = (lambda x: 2 * x), (lambda x: x + 1)
    both = Compose([double, add])
    assert both(3) == 7 and both[0] is double and both[[1]](3) == 4 and both[:1](3) == 6 and len(both) == 2
    both.insert(0, add)
    both.append(double)
    both[1] = add
    assert both(3) == 12 and both.tolist() is both.transforms and "Compose" in repr(both)


def test_the_order_of_the_row_is_the_documented_one():
    row = v8_transforms(Drawn(), 64, SimpleNamespace(**HYP))
    names = [type(each).__name__ for each in row]
    assert names == ["Compose", "MixUp", "CutMix", "Albumentations", "RandomHSV", "RandomFlip", "RandomFlip"]
    assert [type(each).__name__ for each in row[0]] == ["Mosaic", "CopyPaste", "RandomPerspective"]
    keypoints = Drawn()
    keypoints.use_keypoints, keypoints.data = True, {"kpt_shape": [2, 3]}
    flips = v8_transforms(keypoints, 64, SimpleNamespace(**{**HYP, "flipud": 0.5}))[-2:]
    assert [flip.p for flip in flips.transforms] == [0, 0]  # no flip_idx: nothing is mirrored
    keypoints.data["flip_idx"] = [1, 0]
    flips = v8_transforms(keypoints, 64, SimpleNamespace(**{**HYP, "flipud": 0.5}))[-2:]
    assert [flip.flip_idx for flip in flips.transforms] == [[1, 0], [1, 0]] and flips.transforms[0].p == 0.5
    keypoints.data["flip_idx"] = [0, 1, 2]
    with pytest.raises(ValueError, match="flip_idx"):
        v8_transforms(keypoints, 64, SimpleNamespace(**HYP))


def test_without_the_package_albumentations_does_nothing():
    transform, labels = Albumentations(p=1.0), labels_of()
    if transform.transform is None:
        assert transform(labels) is labels and np.array_equal(labels["img"], labels_of()["img"])
        with pytest.raises(ImportError, match="pip install"):
            Albumentations(transforms=[object()])


def test_pictures_become_tensors_for_classification():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    tensor = classify_transforms(32)(picture)
    resized = picture.resize((int(32 * 90 / 50), 32), Image.Resampling.BILINEAR)
    left = round((resized.width - 32) / 2)
    expected = np.asarray(resized)[:, left : left + 32]
    assert torch.equal((tensor * 255).round().to(torch.uint8), torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert classify_transforms((24, 40))(picture).shape == (3, 24, 40)
    assert classify_transforms(32, crop_fraction=0.5)(picture).shape == (3, 32, 32)
    for policy in (None, "randaugment", "autoaugment", "augmix"):
        assert classify_augmentations(32, auto_augment=policy, erasing=0.4, vflip=0.5)(picture).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="expected one of"):
        classify_augmentations(auto_augment="other")


def test_small_transforms_of_classification():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert np.array_equal(CenterCrop(40)(image), image[:, 10:50])
    assert torch.equal(ToTensor()(image), torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1) / 255)
    assert ToTensor(half=True)(image).dtype == torch.float16
    assert ClassifyLetterBox(64)(image).shape == (64, 64, 3)
