"""Rows of pose labels: the recorded verdicts, and what is said of wrong rows."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.data_format import keypoint_files
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.doctor.report import examine
from bitfalcon_plugin.data.doctor.survey import survey
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.pose_rows import read_pose
from bitfalcon_plugin.data.formats.yolo import read_row
from bitfalcon_plugin.tasks.segment import read_segment
from tests.helpers.labels import centres
from tests.helpers.paths import RECORDED, SHARED
from tests.helpers.tiny_dataset import MINIMAL, dataset

CASES = [
    case
    for case in json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["pose-obb-labels"]
    if case["kpt_shape"]
]
ROW = "0 .5 .5 .4 .4 .4 .4 2 .6 .6 1"
KEYS = {**MINIMAL, "kpt_shape": [2, 3], "flip_idx": [0, 1]}


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']} {case['rows'][:40]}" for case in CASES])
def test_recorded_verdicts(tmp_path, case):
    labels = {"a": case["rows"], "other": None}
    spec = load_data(dataset(tmp_path, labels, {**MINIMAL, "kpt_shape": case["kpt_shape"]}))
    read = read_pose if case["kind"] == "pose" else read_row
    if not case["kept"]:
        with pytest.raises(UserError, match=r"a\.txt:1: "):
            scan(spec, "train", read=read)
        return
    if not case["cls_cxcywh"] or case["cls_cxcywh"][0][1] > 1.2:  # a box wholly outside the image is left out here
        left_out = r".*1 row is left out: .*a\.txt:1: a box or an outline without area" if case["cls_cxcywh"] else ""
        with pytest.raises(UserError, match=f"no usable label{left_out}"):
            scan(spec, "train", read=read)
        return
    result = scan(spec, "train", read=read)
    sample = result.samples[0]
    expected = torch.tensor(case["cls_cxcywh"])
    assert sample.labels.classes.tolist() == expected[:, 0].tolist()
    torch.testing.assert_close(centres(sample), expected[:, 1:])
    if case["kind"] == "pose":
        assert torch.equal(sample.labels.keypoints, torch.tensor(case["keypoints"]))
    else:
        assert sample.labels.keypoints is None and sample.labels.polygons is None
        assert "only the boxes of the labels are used" in result.notes[-1]


@pytest.mark.parametrize(
    "row, shape, text",
    [
        (
            "0 .5 .5 .4 .4",
            (2, 3),
            r"5 columns; expected 11: `class cx cy w h` and 2 keypoints .* a box alone, as for task=d",
        ),
        ("0 .5 .5 .4 .4 .4 .4 .6 .6", (2, 3), r"no visibility: set kpt_shape: \[2, 2\], or put 2 behind"),
        (ROW, (2, 2), r"expected 9: .* these keypoints have a visibility: set kpt_shape: \[2, 3\]"),
        (f"{ROW} .5 .5 2", (2, 3), "14 columns; expected 11.* would be 3 keypoints"),
        ("0 .1 .1 .2 .1 .2 .2 .1 .2 .1 .15 .1 .1", (2, 3), "13 columns; .* an outline, as for task=segment"),
        ("0 .5 .5 .4 .4 .4 .4 2 1.02 .6 1", (2, 3), "x1 = 1.02 is outside the image"),
        ("0 .5 .5 .4 .4 -1 -1 0 .6 .6 1", (2, 3), "x0 = -1 is .* A keypoint that is not labelled is written `0 0 0`$"),
        ("0 .5 .5 .4 .4 -1 -1 .6 .6", (2, 2), r"`0 0 0`, which needs kpt_shape: \[K, 3\]"),
        ("0 .5 .5 .4 .4 .4 .4 .6 .6 .7 .7", (2, 2), "11 columns; expected 9: .* these would be 3 keypoints"),
        ("0 .5 .5 .4 .4 .4 .4 2", (2, 3), "these would be 1 keypoint$"),
        (f"{ROW} .9", (2, 3), "12 columns; expected 11.* no score belongs in a label: .* save_conf=True wrote it"),
        ("0 .4 .4 2 .6 .6 1", (2, 3), "7 columns; expected 11.* these keypoints have no box: put its `cx cy w h`"),
        ("0 .5 .5 .4 .4 400 400 2 600 600 1", (2, 3), "x0 = 400, y0 = 400 and 2 more are outside the image"),
        ("0,.5,.5,.4,.4,.4,.4,2,.6,.6,1", (2, 3), "1 column; expected 11: .* without commas"),
        ("1 2 3 2 3 4 1 4 plane 0", (2, 3), "is a line of DOTA's labels"),
        ("0 .5 .5 .4 .4 .4 .4 -1 .6 .6 1", (2, 3), r"v0 = -1 is negative; expected 0 \(not labelled\)"),
        ("0 200 .5 .4 .4 .4 .4 2 .6 .6 1", (2, 3), "cx = 200 is outside the image"),
        ("0 .5 .5 -.4 .4 .4 .4 2 .6 .6 1", (2, 3), "w = -.4 is negative"),
        ("2 .5 .5 .4 .4 .4 .4 2 .6 .6 1", (2, 3), "class 2 is outside 0 to 1"),
        ("0.5 .5 .5 .4 .4 .4 .4 2 .6 .6 1", (2, 3), "class 0.5 is not a whole number"),
        ("0 .5 .5 .4 .4 .4 x 2 .6 nan 1", (2, 3), "'x', 'nan' where a finite number"),
    ],
)
def test_what_is_said_of_a_wrong_row(tmp_path, row, shape, text):
    path = dataset(tmp_path, {"a": f"\n{row}\n"}, {**MINIMAL, "kpt_shape": list(shape)})
    with pytest.raises(UserError, match=rf"(?m)a\.txt:2: .*{text}"):
        scan(load_data(path), "train", read=read_pose)


def test_a_pose_row_in_a_segmentation_run_is_named():
    (problem,) = read_segment(ROW.split(), 1, (2, 3))
    assert "2 keypoints, as kpt_shape: [2, 3] in the YAML says" in problem and "task=pose or task=detect" in problem


def test_an_odd_visibility_is_noted_and_backgrounds_have_no_keypoints(tmp_path):
    path = dataset(tmp_path, {"a": "0 .5 .5 .4 .4 .4 .4 .5 .6 .6 1", "b": "", "c": None}, KEYS)
    result = scan(load_data(path), "train", read=read_pose)
    assert "a.txt:1: visibility 0.5; expected 0 (not labelled)" in result.notes[0]
    assert [sample.labels.keypoints is None for sample in result.samples] == [False, True, True]
    assert result.samples[0].layout.flip == (0, 1)


def test_the_form_of_pose_data_needs_kpt_shape_and_tells_what_it_reads(tmp_path):
    form, settings = keypoint_files("shapes.yaml"), load_settings({})
    with pytest.raises(UserError, match=r"no kpt_shape, and a model of task=pose needs one: .* task=detect"):
        form.load(dataset(tmp_path / "a", {"a": ROW}), settings)
    spec = form.load(dataset(tmp_path / "b", {"a": ROW}, {**MINIMAL, "kpt_shape": [2, 3]}), settings)
    assert "fliplr and flipud are off" in spec.notes[0] and "sigma of the keypoints: 0.5" in spec.notes[1]
    assert form.scan(spec, "train", settings).samples[0].labels.keypoints.shape == (1, 2, 3)


def test_keys_without_kpt_shape_are_noted(tmp_path):
    spec = load_data(dataset(tmp_path, keys={**MINIMAL, "flip_idx": [0, 1]}))
    assert spec.keypoints is None and spec.notes == ("flip_idx: without effect, as there is no kpt_shape",)


def test_doctor_on_poses(tmp_path):
    far = "1 .2 .2 .1 .1 .2 .2 2 .9 .9 1"
    path = dataset(tmp_path, {"a": ROW, "b": far}, {**KEYS, "kpt_names": ["left", "right"]})
    findings = {finding.kind: finding for finding in examine(survey(path), 640).findings}
    assert findings["flips"].severity == "warning" and "left stays, not right" in findings["flips"].items[0]
    assert findings["keypoint outside"].items == ("train: images/train/b.png: dog: keypoint right of object 1",)
    assert findings["sigma"].severity == "note" and "malformed" not in findings
    wrong = dataset(tmp_path / "wrong", {"a": "0 .5 .5 .4 .4", "b": "0 .5 .5 .4 .4 .5 .5 0 .5 .5 7"}, KEYS)
    findings = {finding.kind: finding for finding in examine(survey(wrong), 640).findings}
    assert "a.txt:1: 5 columns" in findings["keypoints"].items[0] and findings["keypoints"].severity == "error"
    assert findings["keypoint not in train"].items == ("0",) and findings["visibility"].severity == "warning"
    pairs = dataset(tmp_path / "pairs", {"a": "0 .5 .5 .4 .4 .5 .5 0 0"}, {**KEYS, "kpt_shape": [2, 2]})
    findings = {finding.kind: finding for finding in examine(survey(pairs), 640).findings}
    assert findings["keypoint at 0 0"].items == ("train: images/train/a.png: cat: keypoint 1 of object 1",)


@pytest.mark.skipif(not (SHARED / "datasets").is_dir(), reason="the shared datasets are not here")
@pytest.mark.parametrize("name, shape", [("gluetubes", (2, 3)), ("mirrormouse", (7, 3))])
def test_shared_poses_are_read_as_poses_and_as_boxes(name, shape):
    spec = load_data(SHARED / "datasets" / name)
    poses, boxes = scan(spec, "val", read=read_pose), scan(spec, "val")
    for pose, box in zip(poses.samples, boxes.samples, strict=True):
        assert pose.labels.keypoints.shape == (len(pose.labels), *shape)
        assert torch.equal(pose.labels.boxes, box.labels.boxes)
