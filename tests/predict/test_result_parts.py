"""Masks, keypoints, probabilities and oriented boxes in results, against recorded results of a black box."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from bitfalcon_plugin.ops.keypoint_layout import COCO_LIMBS
from bitfalcon_plugin.predict.detections import OBB, Boxes
from bitfalcon_plugin.predict.keypoints import Keypoints
from bitfalcon_plugin.predict.masks import Masks
from bitfalcon_plugin.predict.probs import Probs
from bitfalcon_plugin.predict.results import Results
from tests.helpers.paths import RECORDED

RECORD = json.loads((RECORDED / "results.json").read_text())
POSE_OBB, MASKS = RECORD["pose_obb"], RECORD["masks"]
NAMES = {int(index): name for index, name in POSE_OBB["names"].items()}
SHAPE = tuple(POSE_OBB["image_h_w"])
BOXES, POINTS, ORIENTED = (torch.tensor(POSE_OBB[name]) for name in ("boxes", "keypoints_3", "obb"))
TRACKED = torch.cat((ORIENTED[:1, :5], torch.tensor([[7.0]]), ORIENTED[:1, 5:]), 1)


def result(**parts) -> Results:
    return Results(lambda: np.zeros((*SHAPE, 3), np.uint8), "a.jpg", NAMES, **parts, orig_shape=SHAPE)


CASES = {
    "pose_3": {"boxes": BOXES, "keypoints": POINTS},
    "pose_2": {"boxes": BOXES, "keypoints": POINTS[..., :2]},
    "pose_empty": {"boxes": BOXES[:0], "keypoints": POINTS[:0]},
    "obb_results": {"obb": ORIENTED},
    "obb_tracked": {"obb": TRACKED},
    "obb_empty": {"obb": ORIENTED[:0]},
}


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("case", CASES)
def test_texts_of_keypoints_and_oriented_boxes(case, kind, tmp_path):
    found, expected = result(**CASES[case]), POSE_OBB[case]
    found = found.numpy() if kind == "numpy" else found
    assert (len(found), found.verbose()) == (expected["len"], expected["verbose"])
    texts = json.dumps(found.summary()), json.dumps(found.summary(normalize=True, decimals=4))  # with equal orders
    assert texts == (json.dumps(expected["summary"]), json.dumps(expected["summary_normalized"]))
    assert json.dumps(json.loads(found.to_json())) == json.dumps(json.loads(expected["json"]))
    for save_conf in (False, True):
        path = tmp_path / f"{save_conf}.txt"
        assert found.save_txt(path, save_conf=save_conf) == str(path)
        lines = expected[f"save_txt_conf_{save_conf}"]
        assert (path.read_text().splitlines() if path.exists() else None) == lines


def assert_records(records: list[dict], expected: list[dict]) -> None:
    """Equal keys in equal order, and numbers that differ by float32's rounding at most."""
    assert len(records) == len(expected)
    for record, other in zip(records, expected):
        assert list(record) == list(other)
        for key, value in other.items():
            if isinstance(value, dict):
                assert list(record[key]) == list(value)
                for name, numbers in value.items():
                    assert record[key][name] == pytest.approx(numbers, abs=6e-5)
            else:
                assert record[key] == (pytest.approx(value, abs=2e-5) if isinstance(value, float) else value)


def test_attributes_of_oriented_boxes():
    expected = POSE_OBB["obb_results"]
    for found in (result(obb=ORIENTED), result(obb=ORIENTED).numpy(), result(obb=OBB(ORIENTED, SHAPE))):
        assert found.boxes is None and found.obb.id is None and not found.obb.is_track
        for name in ("xyxyxyxy", "xyxyxyxyn", "xyxy", "xywhr"):
            value = getattr(found.obb, name)
            assert isinstance(value, type(found.obb.data))
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-4)
    tracked = result(obb=TRACKED).obb
    assert tracked.id.tolist() == POSE_OBB["obb_tracked"]["id"] and tracked.is_track and tracked.cls.tolist() == [1]
    with pytest.raises(ValueError, match="expected \\(n, 7\\): x y w h angle score class"):
        OBB(ORIENTED[:, :6], SHAPE)


def test_corners_of_oriented_boxes_are_those_of_a_turned_rectangle():
    boxes = torch.tensor([[50.0, 40, 30, 10, 0.7, 0.9, 0]])
    expected = (np.array([[15, 5], [15, -5], [-15, -5], [-15, 5]]) @ turn(0.7).T) + [50, 40]
    np.testing.assert_allclose(OBB(boxes, SHAPE).xyxyxyxy[0], expected, rtol=1e-5)


def test_degrees_and_the_canonical_form_of_oriented_boxes():
    rows = torch.tensor(
        [[50.0, 40, 10, 30, 0.5, 3, 0.9, 0], [50, 40, 30, 10, math.pi, 4, 0.8, 1], [9, 9, 4, 4, -1, 5, 0.7, 0]]
    )
    for boxes in (OBB(rows, SHAPE), OBB(rows.numpy(), SHAPE)):
        assert boxes.degrees.tolist() == pytest.approx([math.degrees(angle) for angle in (0.5, math.pi, -1)], abs=1e-4)
        found = boxes.canonical()
        assert type(found.data) is type(found.degrees) is type(boxes.data) and found.id.tolist() == [3, 4, 5]
        assert found.xywhr[:, 2:4].tolist() == [[30, 10], [30, 10], [4, 4]]
        assert found.degrees.tolist() == pytest.approx([math.degrees(0.5) + 90, 0, 180 - math.degrees(1)], abs=1e-4)
        rings = [np.asarray(each.xyxyxyxy).round(3).tolist() for each in (boxes, found)]
        corners = [[sorted(ring) for ring in each] for each in rings]
        np.testing.assert_allclose(*corners, atol=1e-3)
    assert OBB(rows[:0], SHAPE).canonical().data.shape == (0, 8)


def turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_attributes_of_keypoints():
    expected = POSE_OBB["keypoints_properties"]
    for found in (result(keypoints=POINTS).keypoints, result(keypoints=POINTS.numpy()).keypoints):
        for name in ("xy", "xyn", "conf"):
            value = getattr(found, name)
            assert isinstance(value, type(found.data))
            np.testing.assert_allclose(value, expected[name], rtol=1e-4)
        assert list(found.shape) == expected["shape"] and found.has_visible and len(found) == 2
        assert list(found[0].shape) == expected["one"] and [len(one) for one in found] == [1, 1]
    two = Keypoints(POINTS[..., :2], SHAPE)
    assert two.conf is None and not two.has_visible and Keypoints(POINTS[0], SHAPE).shape == (1, 3, 3)
    with pytest.raises(ValueError, match="\\(n, K, 3\\): x y confidence"):
        Keypoints(torch.zeros(2, 3, 4), SHAPE)


def test_limbs_are_those_of_coco_or_of_a_skeleton():
    assert Keypoints(torch.zeros(1, 17, 3), SHAPE).limbs == list(COCO_LIMBS)
    assert Keypoints(torch.zeros(1, 5, 3), SHAPE).limbs == []
    own = Keypoints(torch.zeros(2, 3, 3), SHAPE, skeleton=[[0, 1], [1, 2]])
    assert own[0].limbs == own.numpy().limbs == [(0, 1), (1, 2)]
    with pytest.raises(ValueError, match="skeleton=.*pairs of 0 to 2"):
        _ = Keypoints(torch.zeros(1, 3, 3), SHAPE, skeleton=[(1, 3)]).limbs


@pytest.mark.parametrize("case", RECORD["probs"], ids=lambda case: str(case["nc"]))
def test_probabilities(case, tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    made = Results(image, "a.jpg", [f"n{i}" for i in range(case["nc"])], probs=torch.tensor(case["probs"]))
    for found in (made, made.numpy()):
        probs = found.probs
        assert (probs.top1, probs.top5, len(found), found.verbose()) == tuple(
            case[name] for name in ("top1", "top5", "len", "verbose")
        )
        assert float(probs.top1conf) == pytest.approx(case["top1conf"]) and probs.top1conf.shape == ()
        assert probs.top5conf.tolist() == pytest.approx(case["top5conf"])
        assert isinstance(probs.top5conf, type(probs.data)) and found.boxes is None and found.masks is None
        assert found.summary() == case["summary"]
    made.save_txt(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == case["txt"]
    assert len(made.to_csv().splitlines()) == 1 + len(case["top5"])
    with pytest.raises(ValueError, match="a probability for each class"):
        Probs(torch.zeros(2, 3))


def planes(case: dict) -> np.ndarray:
    height, width = case["size"]
    return np.stack([coco_mask.decode({"size": [height, width], "counts": rle.encode()}) for rle in case["rle"]])


def of_masks(case: dict, **options) -> Results:
    image = np.zeros((*case["original"], 3), np.uint8)
    boxes = torch.tensor(case["boxes_xyxy_original"])
    scores = torch.linspace(0.95, 0.3, 9)[case["kept"]]
    classes = torch.tensor([0.0, 1, 2]).repeat(3)[case["kept"]]
    rows = torch.cat((boxes, scores[:, None], classes[:, None]), 1)
    return Results(image, "a.jpg", ["a", "b", "c"], rows, torch.from_numpy(planes(case)), **options)


@pytest.mark.parametrize("case", MASKS, ids=lambda case: case["name"])
def test_outlines_of_masks(case, tmp_path):
    found = of_masks(case)
    assert found.masks.data.sum((1, 2)).tolist() == case["areas"]
    outlines = found.masks.xy
    assert [len(ring) for ring in outlines] == case["outline_points"]
    assert all(ring.dtype == np.float32 for ring in outlines)
    recorded = np.asarray(case["outline_of_first"])
    if len(found.masks.parts[0]) == 1:
        np.testing.assert_allclose(outlines[0], recorded, atol=1e-4)
        assert_records([found.summary()[0] | {"segments": {}}], [case["summary_of_first"] | {"segments": {}}])
        segments = case["summary_of_first"]["segments"]
        assert {key: found.summary()[0]["segments"][key][:3] for key in "xy"} == {
            key: pytest.approx(segments[key], abs=2e-5) for key in "xy"
        }
        found.save_txt(tmp_path / "a.txt")
        assert (tmp_path / "a.txt").read_text().startswith(case["txt_of_first"].rpartition(" ")[0])
    else:  # the same ring of two parts; where it begins is free
        assert {*map(tuple, outlines[0].round(3).tolist())} == {*map(tuple, recorded.round(3).tolist())}
    assert np.allclose(found.masks.xyn[0] * case["original"][::-1], outlines[0], atol=1e-3)


def test_masks_are_false_without_rows_and_skip_labels_without_area(tmp_path):
    empty = Results(np.zeros((8, 8, 3), np.uint8), "a", {0: "a"}, torch.zeros(0, 6), torch.zeros(0, 8, 8))
    assert not empty.masks and empty.masks.xy == [] and empty.summary() == [] and empty.plot().sum() == 0
    blank = Results(np.zeros((8, 8, 3), np.uint8), "a", {0: "a"}, torch.ones(2, 6), torch.zeros(2, 8, 8))
    blank.masks.data[1, 2:5, 3:7] = 1
    assert blank.masks and blank.masks.xy[0].shape == (0, 2)
    blank.save_txt(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "1 0.375 0.25 0.375 0.5 0.75 0.5 0.75 0.25\n"
    assert blank.summary()[0]["segments"] == {"x": [], "y": []}
    with pytest.raises(ValueError, match="\\(n, h, w\\): 0 or 1"):
        Masks(torch.zeros(4), (8, 8))


def all_parts() -> Results:
    """Three objects with every part that can stand side by side, tracked."""
    rows = torch.tensor([[10.0 * i, 20, 10 * i + 40, 80, i + 5, 0.9 - i / 10, i % 2] for i in range(3)])
    masks = torch.zeros(3, 60, 80, dtype=torch.uint8)
    for index in range(3):
        masks[index, 10 + index : 20, 10:30] = 1
    points = torch.arange(3 * 4 * 3.0).reshape(3, 4, 3) % 50
    return Results(np.zeros((120, 160, 3), np.uint8), "a.jpg", NAMES, rows, masks, keypoints=points)


@pytest.mark.parametrize(
    "index, kept",
    [(1, [1]), (slice(1, None), [1, 2]), ([2, 0], [2, 0]), (torch.tensor([True, False, True]), [0, 2]), (-1, [2])],
    ids=str,
)
def test_an_index_selects_the_same_rows_of_all_parts(index, kept):
    found = all_parts()
    for each in (found, found.numpy()):
        part = each[index]
        assert part.boxes.id.tolist() == [5 + i for i in kept] and len(part) == len(kept)
        assert part.masks.data.tolist() == found.masks.data[kept].tolist()
        assert part.keypoints.data.tolist() == found.keypoints.data[kept].tolist()
        assert part.masks.xy[0].tolist() == found.masks.xy[kept[0]].tolist()
    assert [len(one) for one in found] == [1, 1, 1]


def test_moves_and_copies_take_all_parts_along():
    found = all_parts()
    for other in (found.numpy(), found.cpu(), found.to(torch.float64), copy.deepcopy(found)):
        assert other.summary() == found.summary()
        assert len({type(part.data) for part in (other.boxes, other.masks, other.keypoints)}) == 1
    assert pickle.loads(pickle.dumps(found)).summary() == found.summary()
    assert found.numpy().to("cpu").masks.data.dtype == torch.uint8
    if torch.cuda.is_available():
        moved = found.cuda()
        assert moved.keypoints.data.is_cuda and moved.masks.data.is_cuda and moved.summary() == found.summary()
        assert moved.plot().shape == found.plot().shape


def test_update_replaces_parts_and_new_has_none():
    found = all_parts()
    blank = found.new()
    assert [getattr(blank, name) for name in found._keys] == [None] * 5 and len(blank) == 0 and not blank
    blank.update(obb=ORIENTED, probs=torch.tensor([0.2, 0.8]), masks=found.masks, keypoints=found.keypoints.data)
    assert blank.obb.data.tolist() == ORIENTED.tolist()  # not clipped
    assert isinstance(blank.probs, Probs) and blank.masks is found.masks and isinstance(blank.keypoints, Keypoints)
    assert blank.update() is None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = blank.nothing_like_this


def test_tables_have_a_column_for_each_part():
    found = all_parts()
    keys = ["name", "class", "confidence", "box", "track_id", "segments", "keypoints"]
    assert list(found.summary()[0]) == list(found.columns()) == keys
    header, first, *_ = csv.reader(io.StringIO(found.to_csv()))
    assert header == [*found.columns(flat=True)] and len(first) == len(header)
    assert header[3:] == "x1 y1 x2 y2 track_id segments_x segments_y keypoints_x keypoints_y keypoints_visible".split()
    assert json.loads(first[header.index("keypoints_x")]) == found.keypoints.data[0, :, 0].tolist()
    assert "<keypoints_visible>" in found.to_xml() and "<track_id>5</track_id>" in found.to_xml()


def test_printed_results_list_their_attributes():
    text = str(all_parts())
    assert text.startswith("bitfalcon_plugin.predict.results.Results object with attributes:\n\nboxes: ")
    lines = text.splitlines()
    for line in ("names: {0: 'person', 1: 'ship'}", "obb: None", "orig_shape: (120, 160)", "path: 'a.jpg'"):
        assert line in lines
    boxes = str(Boxes(BOXES, SHAPE)).splitlines()
    assert boxes[0] == "bitfalcon_plugin.predict.detections.Boxes object with attributes:"
    assert "cls: tensor([0., 1.])" in boxes and "id: None" in boxes and "shape: (2, 6)" in boxes
    assert [line.partition(":")[0] for line in boxes if line[:1].isalpha()][1:] == sorted(Boxes.shown)
    for part in (Probs(torch.tensor([0.1, 0.9])), all_parts().masks, all_parts().keypoints, OBB(ORIENTED, SHAPE)):
        assert "object with attributes" in str(part) and "orig_shape" in repr(part)


def test_the_door_has_the_same_classes():
    from bitfalcon_plugin.dropin.engine import results as door

    assert (door.Results, door.Boxes, door.Masks, door.OBB) == (Results, Boxes, Masks, OBB)
    assert all(issubclass(kind, door.BaseTensor) for kind in (Boxes, Masks, Keypoints, Probs, OBB))
