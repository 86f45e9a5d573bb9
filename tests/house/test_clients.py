"""Other programs that read our results: supervision and SAHI themselves, where they are installed.

Of programs that are too heavy for tests (FiftyOne, Label Studio) the lines that their documentation shows are run.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.predict.results import Results
from tests.helpers.bright import Bright, bright, bright_masks, canvas, untrained
from tests.helpers.finder import painted
from tests.helpers.paths import ROOT

RED, GREEN, BLUE = (0, 4, 6, 20, 30), (1, 26, 8, 40, 20), (2, 44, 30, 60, 44)
SCENES = {"empty": [], "one class": [GREEN], "many": [RED, GREEN, BLUE]}


def rows(boxes) -> list[tuple[int, ...]]:
    """(class, x1, y1, x2, y2), sorted, in whole pixels."""
    return sorted((int(cls), *(round(float(v)) for v in box)) for cls, box in boxes)


@pytest.fixture()
def sv():
    return pytest.importorskip("supervision", reason="supervision is not installed (extra clients)")


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("scene", SCENES)
def test_supervision_reads_results(sv, tmp_path, scene, kind):
    result = bright(tmp_path).predict(canvas(48, 64, *SCENES[scene]))[0]
    found = sv.Detections.from_ultralytics(result.numpy() if kind == "numpy" else result)
    assert len(found) == len(SCENES[scene]) and found.mask is None and found.tracker_id is None
    assert rows(zip(found.class_id, found.xyxy)) == sorted(SCENES[scene])
    assert found.confidence.tolist() == pytest.approx([0.9] * len(found))
    assert found.xyxy.shape == (len(found), 4) and found.class_id.dtype.kind == "i"
    assert [*found.data["class_name"]] == [("red", "green", "blue")[index] for index in found.class_id]


def test_supervision_reads_hundreds_of_boxes_in_every_batch(sv, tmp_path, monkeypatch):
    index = torch.arange(400)
    left_top = torch.stack((index % 20 * 3, index // 20 * 3), 1)
    anchors = torch.zeros(7, 400)
    anchors[:4] = torch.cat((left_top + 1.5, torch.full((400, 2), 3)), 1).T
    anchors[4 + index % 3, index] = 0.5
    monkeypatch.setattr(Bright, "decode", lambda self, images: anchors[None].repeat(len(images), 1, 1))
    results = bright(tmp_path).predict([canvas(64, 64)] * 3, batch=2, max_det=400)
    expected = sorted((int(i) % 3, x, y, x + 3, y + 3) for i, (x, y) in zip(index, left_top.tolist()))
    for result in results:
        found = sv.Detections.from_ultralytics(result)
        assert rows(zip(found.class_id, found.xyxy)) == expected
    assert len(results) == 3


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1]])
def test_supervision_draws_on_pictures_from_views_of_arrays(sv, tmp_path, view):
    flipped = canvas(48, 64, RED, BLUE)[view]
    assert min(flipped.strides) < 0
    result = bright(tmp_path).predict(flipped)[0]
    detections = sv.Detections.from_ultralytics(result)
    assert np.array_equal(result.orig_img, flipped)
    plain = np.ascontiguousarray(flipped)
    expected = sv.Detections.from_ultralytics(bright(tmp_path).predict(plain)[0])
    assert np.array_equal(detections.xyxy, expected.xyxy) and len(detections) == 2
    picture = sv.LabelAnnotator().annotate(sv.BoxAnnotator().annotate(result.orig_img.copy(), detections), detections)
    assert picture.shape == (48, 64, 3) and not np.array_equal(picture, flipped)


@pytest.fixture()
def adapter():
    pytest.importorskip("sahi", reason="SAHI is not installed (extra clients)")
    from bitfalcon_plugin.integrations.sahi import BitfalconDetectionModel

    return BitfalconDetectionModel


def sahi_rows(result) -> list[tuple[int, ...]]:
    return rows((item.category.id, item.bbox.to_xyxy()) for item in result.object_prediction_list)


# No box crosses a multiple of 64.
FAR = [(0, 10, 10, 30, 40), (0, 140, 20, 160, 50), (1, 70, 70, 100, 100), (2, 150, 140, 180, 170)]

SLICES = {
    "slice_height": 64,
    "slice_width": 64,
    "overlap_height_ratio": 0,
    "perform_standard_pred": False,
    "verbose": 0,
}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_sahi_finds_in_slices_what_lies_in_them(adapter, tmp_path, batch_size):
    from sahi.predict import get_sliced_prediction

    model = adapter(model=bright(tmp_path), device="cpu", confidence_threshold=0.3)
    image = np.ascontiguousarray(canvas(192, 192, *FAR)[..., ::-1])  # RGB, as SAHI has its images
    found = get_sliced_prediction(image, model, **SLICES, overlap_width_ratio=0, batch_size=batch_size)
    assert sahi_rows(found) == sorted(FAR)
    assert {item.category.name for item in found.object_prediction_list} == {"red", "green", "blue"}
    assert {round(item.score.value, 3) for item in found.object_prediction_list} == {0.9}
    assert [shape[0] for shape in model.model.predictor.model.seen] == ([1] * 9 if batch_size == 1 else [4, 4, 1])


def test_sahi_joins_the_parts_of_an_object_that_slices_cut(adapter, tmp_path):
    from sahi.predict import get_sliced_prediction

    box = (0, 20, 30, 60, 50)  # the slices begin at 0 and 32
    path = painted(tmp_path / "wide.png", (96, 64), [box])
    model = adapter(model=bright(tmp_path), device="cpu")
    found = get_sliced_prediction(str(path), model, **SLICES, overlap_width_ratio=0.5)
    assert sahi_rows(found) == [box] and len(model.model.predictor.model.seen) == 2


@pytest.mark.parametrize("scene", SCENES)
def test_sahi_predicts_whole_images(adapter, tmp_path, scene):
    from sahi.predict import get_prediction

    path = painted(tmp_path / "a.png", (64, 48), SCENES[scene])
    model = adapter(model=bright(tmp_path), device="cpu", category_remapping={"0": 10, "1": 11, "2": 12})
    found = get_prediction(str(path), model)
    assert sahi_rows(found) == sorted((cls + 10, *box) for cls, *box in SCENES[scene])
    flipped = canvas(48, 64, *SCENES[scene])[::-1, :, ::-1]  # RGB, upside down, strides negative
    upside = [(cls + 10, x1, 48 - y2, x2, 48 - y1) for cls, x1, y1, x2, y2 in SCENES[scene]]
    assert sahi_rows(get_prediction(flipped, model)) == sorted(upside)
    assert sahi_rows(get_prediction(str(path), model, confidence_threshold=0.95)) == []
    assert len(json.dumps(found.to_coco_annotations())) > 1


def test_sahi_opens_a_checkpoint_by_its_path_and_says_what_is_wrong(adapter, tmp_path):
    untrained(tmp_path).save(tmp_path / "fresh.pt")
    names = {"0": "a", "1": "b", "2": "c"}
    model = adapter(model_path=str(tmp_path / "fresh.pt"), device="cpu", image_size=64, category_mapping=names)
    model.perform_inference(canvas(48, 64))
    model.convert_original_predictions()
    assert model.object_prediction_list == [] and model.category_names == ["a", "b", "c"] and model.num_categories == 3
    assert not model.has_mask
    with pytest.raises(UserError, match="model_path=, a checkpoint"):
        adapter(device="cpu")
    with pytest.raises(UserError, match="model is a str.*model_path="):
        adapter(model="best.pt", device="cpu")
    with pytest.raises(UserError, match="classes 1, 2 "):
        adapter(model=bright(tmp_path), device="cpu", category_mapping={"0": "a"})
    with pytest.raises(FileNotFoundError):
        adapter(model_path=str(tmp_path / "none.pt"), device="cpu")


def test_without_sahi_the_adapter_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "sahi", None)
    monkeypatch.setitem(sys.modules, "sahi.models.base", None)
    monkeypatch.delitem(sys.modules, "bitfalcon_plugin.integrations.sahi", raising=False)
    with pytest.raises(ImportError, match="pip install sahi"):
        importlib.import_module("bitfalcon_plugin.integrations.sahi")


@pytest.mark.parametrize("scene", SCENES)
def test_annotation_tools_find_what_their_documentation_reads(tmp_path, scene):
    expected = sorted(SCENES[scene])
    path = painted(tmp_path / "a.png", (64, 48), SCENES[scene])
    yolo = bright(tmp_path)
    (result,) = yolo(path)
    # FiftyOne: relative [left, top, width, height] from centres and sizes
    boxes = result.boxes.xywhn.cpu().numpy()
    left_top = boxes[:, :2] - boxes[:, 2:] / 2
    sides = np.concatenate((left_top, left_top + boxes[:, 2:]), 1) * [64, 48, 64, 48]
    labels = [result.names[int(index)] for index in result.boxes.cls]
    assert rows(zip(result.boxes.cls.tolist(), sides)) == expected and len(result) == len(labels) == len(expected)
    # Label Studio: a box at a time, in percent of the picture
    regions = []
    for box in result.boxes:
        x, y, w, h = box.xywhn[0].tolist()
        regions.append((int(box.cls.item()), (x - w / 2) * 64, (y - h / 2) * 48, (x + w / 2) * 64, (y + h / 2) * 48))
        assert box.conf.item() == pytest.approx(0.9) and yolo.names[int(box.cls)] in labels
    assert rows((cls, box) for cls, *box in regions) == expected
    # ComfyUI's nodes: corners and scores as arrays, and no masks
    assert result.masks is None and result.boxes.xyxy.cpu().numpy().shape == (len(expected), 4)
    assert result.plot().shape == result.orig_img.shape == (48, 64, 3) and result.orig_shape == (48, 64)


def test_the_examples_of_the_page_run(sv, adapter, tmp_path, monkeypatch):
    text = (ROOT / "bitfalcon_plugin" / "predict" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text.partition("\n## Clients\n")[2], re.S)
    assert len(blocks) == 2
    untrained(tmp_path).save(tmp_path / "best.pt")
    for name in ("image.jpg", "large.jpg"):
        painted(tmp_path / name, (64, 48), [RED])
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.py").write_text(block)
        assert runpy.run_path(str(tmp_path / f"{number}.py"))["result"] is not None


def part_results(**parts) -> Results:
    return Results(np.zeros((48, 64, 3), np.uint8), "a.jpg", {0: "red", 1: "green"}, **parts)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_supervision_reads_every_part_of_results(sv, kind):
    rows = torch.tensor([[4.0, 6, 20, 30, 5, 0.9, 0], [26, 8, 40, 20, 6, 0.8, 1]])  # with tracks
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)  # the picture fills rows 4 to 28
    masks[0, 8:16, 4:12] = masks[1, 8:12, 16:24] = 1
    points = torch.rand(2, 5, 3) * 40
    oriented = torch.tensor([[30.0, 20, 20, 10, 0.5, 0.9, 1]])
    probs = torch.tensor([0.25, 0.75])
    of_boxes, of_obb, of_probs = (
        result.numpy() if kind == "numpy" else result
        for result in (
            part_results(boxes=rows, masks=masks, keypoints=points),
            part_results(obb=oriented),
            part_results(probs=probs),
        )
    )
    found = sv.Detections.from_ultralytics(of_boxes)
    assert found.tracker_id.tolist() == [5, 6] and found.class_id.tolist() == [0, 1]
    assert found.mask.shape == (2, 48, 64) and found.mask.dtype == bool
    for mask, ring in zip(found.mask, of_boxes.masks.xy):
        ys, xs = mask.nonzero()
        np.testing.assert_allclose((xs.min(), ys.min()), ring.min(0), atol=1)
        np.testing.assert_allclose((xs.max(), ys.max()), ring.max(0), atol=2)
    skeletons = sv.KeyPoints.from_ultralytics(of_boxes)
    np.testing.assert_allclose(skeletons.xy, points[..., :2])
    turned = sv.Detections.from_ultralytics(of_obb)
    np.testing.assert_allclose(turned.data["xyxyxyxy"], of_obb.obb.xyxyxyxy)
    assert turned.xyxy.shape == (1, 4) and turned.tracker_id is None and [*turned.data["class_name"]] == ["green"]
    assert sv.Classifications.from_ultralytics(of_probs).confidence.tolist() == [0.25, 0.75]
    for empty in (part_results(boxes=rows[:0], masks=masks[:0]), part_results(obb=oriented[:0])):
        assert len(sv.Detections.from_ultralytics(empty)) == 0


def discs(height: int, width: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A grey BGR image with a red and a blue disc, which overlap the boxes of each other; and their planes."""
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    planes = [
        (rows - height * y) ** 2 + (columns - width * x) ** 2 <= (height * 0.3) ** 2
        for x, y in ((0.3, 0.35), (0.66, 0.62))
    ]
    image = canvas(height, width)
    for plane, colour in zip(planes, ([0, 0, 255], [255, 0, 0])):
        image[plane] = colour
    return image, planes


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("retina", [False, True], ids=["masks of the input", "masks of the image"])
def test_supervision_reads_masks_of_predictions(sv, tmp_path, kind, retina):
    image, planes = discs(240, 320)
    yolo = bright_masks(tmp_path, imgsz=160)
    results = yolo.predict([image, canvas(240, 320)], retina_masks=retina, batch=2)
    found, empty = (sv.Detections.from_ultralytics(result.numpy() if kind == "numpy" else result) for result in results)
    assert found.class_id.tolist() == [0, 2] and found.mask.shape == (2, 240, 320) and found.mask.dtype == bool
    for mask, plane in zip(found.mask, planes):
        assert (mask & plane).sum() / (mask | plane).sum() > 0.93
    np.testing.assert_allclose(found.area, [plane.sum() for plane in planes], rtol=0.05)
    assert len(empty) == 0
    drawn = sv.MaskAnnotator(opacity=1.0).annotate(image.copy(), found)
    changed = (drawn != image).any(2)
    union = planes[0] | planes[1]
    assert (changed & union).sum() / (changed | union).sum() > 0.93
    outlines = [max(sv.mask_to_polygons(mask), key=len) for mask in found.mask]
    for outline, ring in zip(outlines, results[0].masks.xy):
        np.testing.assert_allclose(outline.min(0), ring.min(0), atol=3)
        np.testing.assert_allclose(outline.max(0), ring.max(0), atol=3)
    chosen = sv.Detections.from_ultralytics(results[0][1])
    assert np.array_equal(chosen.mask, found.mask[1:])
