"""Datasets that scripts subclass, and the loaders that trainers build, against the files on the disk."""

from __future__ import annotations

import copy
import os
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from bitfalcon_plugin.dropin.data import build
from bitfalcon_plugin.dropin.data.build import InfiniteDataLoader, build_dataloader, build_yolo_dataset
from bitfalcon_plugin.dropin.data.dataset import BaseDataset, ClassificationDataset, YOLOConcatDataset, YOLODataset
from bitfalcon_plugin.dropin.data.utils import check_det_dataset
from bitfalcon_plugin.dropin.utils import DEFAULT_CFG
from bitfalcon_plugin.ops.resize import resize_bilinear
from tests.helpers.coloured import place  # noqa: F401


def settings(**changes):
    hyp = copy.copy(DEFAULT_CFG)
    for key, value in {"imgsz": 64, "task": "detect", **changes}.items():
        setattr(hyp, key, value)
    return hyp


def dataset(mode="val", data=None, cls=None, **changes):
    data = data or check_det_dataset("data/data.yaml")
    return build_yolo_dataset(settings(**changes), data[mode], 4, data, mode=mode)


def write_labels(text: str, task_file: str = "data/labels/val/0.txt") -> None:
    with open(task_file, "w") as file:
        file.write(text)


def test_labels_are_those_of_the_files(place):  # noqa: F811
    images = dataset("train")
    assert len(images) == images.ni == 10 and isinstance(images, BaseDataset) and "train" in images.prefix
    for number, label in enumerate(images.labels):
        row = np.loadtxt(f"data/labels/train/{number}.txt", ndmin=2)
        assert label["im_file"].endswith(f"{number}.png") and label["shape"] == (48, 64)
        assert label["cls"].shape == (1, 1) and label["cls"].dtype == np.float32
        np.testing.assert_allclose(np.concatenate([label["cls"], label["bboxes"]], 1), row, atol=1e-6)
        assert label["normalized"] is True and label["bbox_format"] == "xywh" and label["keypoints"] is None
    assert images.label_files[3].endswith(os.path.join("labels", "train", "3.txt"))


def test_an_image_is_resized_to_its_longer_side(place):  # noqa: F811
    images = dataset(imgsz=96)
    image, before, after = images.load_image(0)
    pixels = np.asarray(Image.open("data/images/val/0.png").convert("RGB"))[..., ::-1]
    assert before == (48, 64) and after == (72, 96) and image.dtype == np.uint8
    assert np.array_equal(image, resize_bilinear(pixels, (72, 96)))
    assert images.load_image(0, rect_mode=False)[0].shape == (96, 96, 3)
    label = images.get_image_and_label(0)
    assert label["ori_shape"] == (48, 64) and label["resized_shape"] == (72, 96) and label["ratio_pad"] == (1.5, 1.5)
    assert len(label["instances"]) == 1 and label["instances"].normalized


def test_an_item_and_a_batch_have_the_documented_form(place):  # noqa: F811
    images = dataset()
    item = images[0]
    assert (
        item["img"].shape == (3, 64, 64)
        and item["img"].dtype == torch.uint8
        and item["ratio_pad"] == ((1.0, 1.0), (0, 8))
    )
    assert item["cls"].shape == (1, 1) and item["bboxes"].shape == (1, 4) and item["batch_idx"].tolist() == [0]
    row = np.loadtxt("data/labels/val/0.txt")
    expected = np.array([row[1], (row[2] * 48 + 8) / 64, row[3], row[4] * 48 / 64])
    np.testing.assert_allclose(item["bboxes"][0].numpy(), expected, atol=1e-6)
    (batch,) = build_dataloader(images, 16, 0, shuffle=False)
    assert batch["img"].shape == (4, 3, 64, 64) and batch["batch_idx"].tolist() == [0, 1, 2, 3]
    assert torch.equal(batch["img"][2], images[2]["img"]) and torch.equal(batch["bboxes"][2:3], images[2]["bboxes"])
    assert batch["ori_shape"] == ((48, 64),) * 4 and batch["im_file"] == tuple(images.im_files)


def test_training_items_are_augmented_and_mosaic_can_be_closed(place):  # noqa: F811
    random.seed(0)
    images = dataset("train", mosaic=1.0, copy_paste=0.0)
    assert sum(len(images[index]["cls"]) for index in range(10)) > 10 and len(images.buffer) == 9
    hyp = settings(mosaic=1.0)
    images.close_mosaic(hyp)
    assert images.transforms[0][0].p == 0 and hyp.mosaic == 1.0
    assert all(len(images[index]["cls"]) <= 1 for index in range(10))
    rectangular = dataset("train", rect=True, mosaic=1.0)
    assert rectangular.transforms[0][0].p == 0 and rectangular[0]["img"].shape == (3, 64, 64)


def test_rectangles_hold_the_images_of_a_batch(place):  # noqa: F811
    Image.new("RGB", (30, 90)).save("data/images/val/tall.png")
    images = YOLODataset(
        img_path="data/images/val",
        imgsz=64,
        augment=False,
        rect=True,
        batch_size=2,
        data={"names": {0: "a", 1: "b", 2: "c"}},
    )
    shapes = [images[index]["img"].shape[1:] for index in range(5)]
    assert shapes == [tuple(images.batch_shapes[number]) for number in (0, 0, 1, 1, 2)]
    assert shapes[0] == (64, 96) and shapes[4] == (96, 64) and "shape" not in images.labels[0]
    assert images.im_files[-1].endswith("tall.png")


def test_wrong_labels_leave_their_image_out(place, capsys):  # noqa: F811
    write_labels("0 0.5 0.5 0.2 0.2 0.9\n")
    write_labels("7 0.5 0.5 0.2 0.2\n", "data/labels/val/1.txt")
    write_labels("", "data/labels/val/2.txt")
    images = dataset()
    text = capsys.readouterr().out
    assert (
        len(images) == 2 and "0.txt:1" in text and "class 7" in text and "2 corrupt" in text and "1 backgrounds" in text
    )
    assert images.labels[0]["cls"].shape == (0, 1) and images[0]["bboxes"].shape == (0, 4)


def test_classes_can_be_chosen_and_joined(place):  # noqa: F811
    chosen = dataset("train", classes=[1])
    assert {float(cls) for label in chosen.labels for cls in label["cls"].flatten()} == {1.0}
    single = dataset("train", single_cls=True)
    assert {float(cls) for label in single.labels for cls in label["cls"].flatten()} == {0.0}
    assert len(dataset("train", fraction=0.4)) == 4


@pytest.mark.parametrize("cache", ["ram", "disk", True])
def test_a_cache_gives_the_same_images(place, cache):  # noqa: F811
    plain, cached = dataset(imgsz=96), dataset(imgsz=96, cache=cache)
    assert all(torch.equal(plain[index]["img"], cached[index]["img"]) for index in range(4))
    assert (cached.npy_files[0].is_file()) == (cache == "disk")


def test_mistakes_are_said(place):  # noqa: F811
    with pytest.raises(TypeError, match="data="):
        YOLODataset(img_path="data/images/val")
    data = {"names": {0: "a"}}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        YOLODataset(img_path="nowhere", data=data)
    with pytest.raises(ValueError, match="outline"):
        dataset("train", task="segment")
    for number in range(10):
        os.remove(f"data/labels/train/{number}.txt")
    with pytest.raises(ValueError, match="No labels"):
        dataset("train")


def test_outlines_become_masks_and_oriented_boxes(place):  # noqa: F811
    for number in range(4):
        write_labels(f"{number % 3} 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n", f"data/labels/val/{number}.txt")
    masks = dataset(task="segment")[0]
    assert masks["masks"].shape == (1, 16, 16) and masks["masks"][0, 5:11, 4:8].all() and masks["masks"].sum() == 24
    oriented = dataset(task="obb")[0]
    np.testing.assert_allclose(oriented["bboxes"][0].numpy(), [24 / 64, 0.5, 24 / 64, 16 / 64, np.pi / 2], atol=1e-5)


def test_keypoints_are_read_checked_and_mirrored(place, capsys):  # noqa: F811
    for split, count in (("val", 4), ("train", 10)):
        for number in range(count):
            write_labels("1 0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.5 0\n", f"data/labels/{split}/{number}.txt")
    write_labels("1 0.5 0.5 0.4 0.4 0.4 0.4 2\n", "data/labels/val/3.txt")
    data = {**check_det_dataset("data/data.yaml"), "kpt_shape": [2, 3], "flip_idx": [1, 0]}
    images = dataset(task="pose", data=data)
    assert len(images) == 3 and "expected 11" in capsys.readouterr().out
    item = images[0]
    assert item["keypoints"].shape == (1, 2, 3) and item["keypoints"][0, :, 2].tolist() == [2, 0]
    np.testing.assert_allclose(item["keypoints"][0, 0, :2].numpy(), [0.4, (0.4 * 48 + 8) / 64], atol=1e-6)
    flat = {"mosaic": 0.0, "translate": 0.0, "scale": 0.0, "fliplr": 1.0}
    mirrored = dataset("train", task="pose", data=data, **flat)[0]
    np.testing.assert_allclose(mirrored["keypoints"][0, 1, 0].numpy(), 0.6, atol=1e-4)
    assert mirrored["keypoints"][0, :, 2].tolist() == [0, 2]


def test_a_class_of_a_script_replaces_the_dataset(place, monkeypatch):  # noqa: F811
    """The weighted dataset that people publish: it replaces YOLODataset in the module that builds datasets."""

    class Weighted(YOLODataset):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.train_mode = "train" in self.prefix
            counts = np.zeros(len(self.data["names"]))
            for label in self.labels:
                for cls in label["cls"].reshape(-1):
                    counts[int(cls)] += 1
            weights = [max(1 / counts[int(c)] for c in label["cls"].reshape(-1)) for label in self.labels]
            self.probabilities = np.array(weights) / sum(weights)

        def __getitem__(self, index):
            if self.train_mode:
                index = int(np.random.choice(len(self.labels), p=self.probabilities))
            return self.transforms(self.get_image_and_label(index))

    monkeypatch.setattr(build, "YOLODataset", Weighted)
    images = dataset("train")
    assert isinstance(images, Weighted) and images.probabilities.sum() == pytest.approx(1)
    batch = next(iter(build_dataloader(images, 4, 0)))
    assert batch["img"].shape == (4, 3, 64, 64)


def test_workers_go_on_from_epoch_to_epoch_until_a_reset(place):  # noqa: F811
    loader = build_dataloader(dataset("train"), 4, 2, shuffle=True)
    assert isinstance(loader, InfiniteDataLoader) and isinstance(loader, DataLoader) and len(loader) == 3
    assert len(list(loader)) == 3
    first = [worker.pid for worker in loader._iterator._workers]
    assert len(list(loader)) == 3 and [worker.pid for worker in loader._iterator._workers] == first
    loader.reset()
    assert len(list(loader)) == 3 and [worker.pid for worker in loader._iterator._workers] != first
    assert build_dataloader(dataset(), 100, 0).batch_size == 4


def test_folders_are_classes(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 30), name == "cat" and "red" or "blue").save(tmp_path / name / "a.png")
    images = ClassificationDataset(str(tmp_path), settings(imgsz=32))
    assert images.classes == ["cat", "dog"] and len(images) == 2
    assert images[0]["img"].shape == (3, 32, 32) and images[1]["cls"] == 1 and images[0]["img"][0].min() == 1
    assert ClassificationDataset(str(tmp_path), settings(imgsz=32), augment=True)[0]["img"].shape == (3, 32, 32)
    with pytest.raises(FileNotFoundError, match="each class"):
        ClassificationDataset(str(tmp_path / "cat"), settings())


def test_datasets_can_be_put_behind_one_another(place):  # noqa: F811
    joined = YOLOConcatDataset([dataset(), dataset("train")])
    joined.close_mosaic(settings())
    assert len(joined) == 14 and len(next(iter(build_dataloader(joined, 14, 0)))["im_file"]) == 14
