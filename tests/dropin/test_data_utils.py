"""Checks of datasets, sources to predict, and converters, against files written here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.dropin.data import load_inference_source
from bitfalcon_plugin.dropin.data.converter import (
    coco80_to_coco91_class,
    coco91_to_coco80_class,
    convert_coco,
    merge_multi_segment,
)
from bitfalcon_plugin.dropin.data.loaders import LoadStreams
from bitfalcon_plugin.dropin.data.split import autosplit
from bitfalcon_plugin.dropin.data.utils import (
    IMG_FORMATS,
    VID_FORMATS,
    check_cls_dataset,
    check_det_dataset,
    exif_size,
    find_dataset_yaml,
    get_hash,
    img2label_paths,
    load_dataset_cache_file,
    save_dataset_cache_file,
    verify_image,
    verify_image_label,
)
from bitfalcon_plugin.predict.coco_json import COCO_IDS
from tests.helpers.coloured import place  # noqa: F401


def test_a_dataset_is_a_dict_of_absolute_paths(place):  # noqa: F811
    data = check_det_dataset("data/data.yaml")
    assert data["nc"] == 3 and data["names"] == {0: "red", 1: "green", 2: "blue"} and data["path"] == place / "data"
    assert data["train"] == str(place / "data/images/train") and data["yaml_file"] == str(place / "data/data.yaml")
    assert find_dataset_yaml(place / "data") == place / "data/data.yaml"
    (place / "data/pose.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n"
    )
    assert check_det_dataset("data/pose.yaml")["flip_idx"] == [1, 0]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("train: images/train\nnames: [a]\n", SyntaxError, "val: missing"),
        ("train: images/train\nval: images/val\n", SyntaxError, "names: missing"),
        ("train: images/nowhere\nval: images/val\nnames: [a]\n", FileNotFoundError, "nowhere"),
    ],
)
def test_a_wrong_dataset_says_what_is_wrong(place, text, error, says):  # noqa: F811
    Path("data/bad.yaml").write_text(text)
    with pytest.raises(error, match=says):
        check_det_dataset("data/bad.yaml")
    with pytest.raises(FileNotFoundError):
        check_det_dataset("missing.yaml")


def test_folders_of_classes_are_a_dataset(tmp_path):
    for name in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / name).mkdir(parents=True)
    data = check_cls_dataset(tmp_path)
    assert (
        data["names"] == {0: "cat", 1: "dog"} and data["val"] == data["test"] == tmp_path / "test" and data["nc"] == 2
    )
    with pytest.raises(FileNotFoundError, match="train"):
        check_cls_dataset(tmp_path / "test")


def test_names_of_files():
    paths = ["/a/images/images/x.jpg", "b/images/y.z.png", "c.jpg"]
    assert img2label_paths(paths) == ["/a/images/labels/x.txt", "b/labels/y.z.txt", "c.txt"]
    assert {"jpg", "png", "webp"} <= IMG_FORMATS and {"mp4", "avi"} <= VID_FORMATS
    picture = Image.new("RGB", (40, 20))
    picture.getexif()[0x0112] = 6
    assert exif_size(picture) == (20, 40) and exif_size(Image.new("RGB", (40, 20))) == (40, 20)


def test_files_of_labels_are_not_opened(tmp_path):
    path = tmp_path / "labels.cache"
    save_dataset_cache_file("", path, {"labels": []})
    with pytest.raises(FileNotFoundError, match="run code"):  # scripts then read the labels
        load_dataset_cache_file(path)
    before = get_hash([str(path)])
    path.write_text("x")
    assert get_hash([str(path)]) != before and len(before) == 64


def test_one_image_and_its_labels_are_checked(place):  # noqa: F811
    image, label = "data/images/val/0.png", "data/labels/val/0.txt"
    found = verify_image_label((image, label, "val: ", False, 3, 0, 0, False))
    assert found[0] == image and found[2] == (48, 64) and found[5:] == [0, 1, 0, 0, ""]
    np.testing.assert_allclose(found[1], np.loadtxt(label, ndmin=2), atol=1e-6)
    Path("points.txt").write_text("0 0.5 0.5 0.4 0.4 0.5 0.5\n0 0.5 0.5 0.2 0.2 -0.005 0.5\n")
    found = verify_image_label((image, "points.txt", "", True, 1, 1, 2))
    assert found[4].shape == (2, 1, 3) and found[4][:, 0, 2].tolist() == [1, 0]
    Path("bad.txt").write_text("0 0.5 0.5 2.0 0.2\n")
    found = verify_image_label((image, "bad.txt", "val: ", False, 3, 0, 0, False))
    assert found[:5] == [None] * 5 and found[8] == 1 and "bad.txt:1" in found[9] and found[9].startswith("val: ")
    assert verify_image_label((image, "none.txt", "", False, 3, 0, 0))[5:9] == [1, 0, 0, 0]
    assert verify_image(((image, 1), ""))[1:] == (1, 0, "")
    assert verify_image((("bad.txt", 1), "x: "))[1:3] == (0, 1)


def test_a_folder_is_split_the_same_way_every_time(tmp_path):
    for number in range(40):
        path = tmp_path / f"images/{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/3.txt").touch()
    autosplit(tmp_path / "images", weights=(0.5, 0.5, 0.0))
    lists = {name: (tmp_path / f"autosplit_{name}.txt") for name in ("train", "val", "test")}
    lines = [lists[name].read_text().split() for name in ("train", "val")]
    assert not lists["test"].exists() and len(lines[0]) + len(lines[1]) == 40 and 8 < len(lines[0]) < 32
    assert set(lines[0]) | set(lines[1]) == {f"./images/{number}.jpg" for number in range(40)}
    autosplit(tmp_path / "images", weights=(0.5, 0.5, 0.0))
    assert lists["train"].read_text().split() == lines[0]
    autosplit(tmp_path / "images", weights=(1, 0, 0), annotated_only=True)
    assert lists["train"].read_text() == "./images/3.jpg\n" and not lists["val"].exists()


def test_category_numbers_of_coco():
    assert coco80_to_coco91_class() == list(COCO_IDS)
    forward = coco91_to_coco80_class()
    assert [forward[number - 1] for number in coco80_to_coco91_class()] == list(range(80)) and forward.count(None) == 11


def coco_file(folder: Path) -> None:
    square, halves = [10, 10, 30, 10, 30, 30, 10, 30], [[0, 0, 20, 0, 20, 40], [30, 0, 50, 0, 50, 40]]
    of_image = {"image_id": 1, "iscrowd": 0}
    first = {**of_image, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": [square]}
    annotations = [
        {**first, "keypoints": [12, 13, 2, 0, 0, 0]},
        {**of_image, "category_id": 90, "bbox": [0, 0, 50, 40], "segmentation": halves},
        first,
        {**first, "category_id": 2, "iscrowd": 1},
        {**first, "category_id": 2, "bbox": [10, 10, 0, 20]},
    ]
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 100, "height": 50},
        {"id": 2, "file_name": "b.jpg", "width": 9, "height": 9},
    ]
    folder.mkdir()
    (folder / "instances_val.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def test_coco_becomes_label_files(tmp_path):
    coco_file(tmp_path / "annotations")
    convert_coco(str(tmp_path / "annotations"), str(tmp_path / "out"))
    folder = tmp_path / "out/labels/val"
    assert (folder / "a.txt").read_text() == "0 0.2 0.4 0.2 0.4\n79 0.25 0.4 0.5 0.8\n"
    assert (folder / "b.txt").read_text() == ""
    convert_coco(str(tmp_path / "annotations"), str(tmp_path / "plain"), cls91to80=False)
    assert (tmp_path / "plain/labels/val/a.txt").read_text().split("\n")[1].startswith("89 ")
    convert_coco(str(tmp_path / "annotations"), str(tmp_path / "points"), use_keypoints=True)
    assert (tmp_path / "points/labels/val/a.txt").read_text() == "0 0.2 0.4 0.2 0.4 0.12 0.26 2 0 0 0\n"
    with pytest.raises(FileNotFoundError):
        convert_coco(str(tmp_path / "nowhere"))


def test_parts_of_an_object_are_joined_by_a_bridge_without_area(tmp_path):
    coco_file(tmp_path / "annotations")
    convert_coco(str(tmp_path / "annotations"), str(tmp_path / "out"), use_segments=True)
    first, second = (tmp_path / "out/labels/val/a.txt").read_text().splitlines()
    assert first == "0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6"
    ring = np.array(second.split()[1:], float).reshape(-1, 2) * [100, 50]
    x, y = ring.T
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    assert area == pytest.approx(400 + 400, rel=1e-5) and len(ring) == 8
    (same,) = merge_multi_segment([[0, 0, 20, 0, 20, 40], [30, 0, 50, 0, 50, 40]])
    np.testing.assert_allclose(same, ring, atol=1e-4)


def test_sources_of_images(place):  # noqa: F811
    loader = load_inference_source("data/images/val", batch=3)
    batches = list(loader)
    assert loader.mode == "image" and loader.nf == loader.ni == 4 and len(loader) == 2 and loader.bs == 3
    assert [len(images) for _, images, _ in batches] == [3, 1] and not loader.source_type.from_img
    pixels = np.asarray(Image.open("data/images/val/0.png").convert("RGB"))[..., ::-1]
    assert np.array_equal(batches[0][1][0], pixels) and batches[0][0][0].endswith("0.png")
    assert batches[0][2][0].startswith("image 1/4 ")
    assert len(list(load_inference_source("data/images/val/*.png"))) == 4
    with pytest.raises(FileNotFoundError):
        load_inference_source("nowhere.jpg")


def test_sources_in_memory(place):  # noqa: F811
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    loader = load_inference_source([array, Image.fromarray(array[..., ::-1].copy()), "data/images/val/0.png"])
    ((paths, images, texts),) = list(loader)
    assert loader.source_type.from_img and len(loader) == 3 and texts == [""] * 3 and paths[0] == "image0.jpg"
    assert np.array_equal(images[0], array) and np.array_equal(images[1], array)
    tensor = load_inference_source(torch.rand(2, 3, 64, 32))
    assert tensor.source_type.tensor and tensor.bs == 2 and next(iter(tensor))[1].shape == (2, 3, 64, 32)
    assert load_inference_source(tensor) is tensor
    assert load_inference_source(torch.full((3, 32, 32), 255, dtype=torch.uint8)).im0.max() == 1
    with pytest.raises(ValueError, match="32"):
        load_inference_source(torch.rand(3, 33, 32))
    with pytest.raises(TypeError, match="dict"):
        load_inference_source({})
    with pytest.raises(NotImplementedError, match="screen"):
        load_inference_source("screen")


def test_videos_frame_by_frame(tmp_path):
    opencv = pytest.importorskip("cv2")
    path = str(tmp_path / "clip.avi")
    writer = opencv.VideoWriter(path, opencv.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), number * 40, np.uint8))
    writer.release()
    loader = load_inference_source(path, batch=2, vid_stride=2)
    batches = list(loader)
    assert loader.mode == "video" and loader.fps == 10 and [len(images) for _, images, _ in batches] == [2, 1]
    assert "frame 3/3" in batches[1][2][0] and abs(int(batches[1][1][0].mean()) - 160) < 3
    streams = LoadStreams([path, path])
    assert len(list(streams)) == 6 and streams.bs == 2 and streams.mode == "stream" and not streams.running
