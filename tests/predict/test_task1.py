"""Task1 files of DOTA: lines, files, and tiles put together."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.predict.task1 import MERGED, PER_TILE, merge_tile_files, write_task1
from bitfalcon_plugin.predict.writer import write_files
from tests.helpers.exports import tiny_obb
from tests.helpers.harbour import lay_out_dota

NAMES = {0: "plane", 1: "large vehicle", 2: "harbor"}


def found(*rows: tuple[float, ...]) -> Instances:
    """Detections from rows: image, class, score, x, y, w, h, angle."""
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 8)
    boxes = torch.zeros(len(table), 4)
    return Instances(boxes, table[:, 1].long(), table[:, 2], image=table[:, 0].long(), xywhr=table[:, 3:])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """ProbIoU of two boxes xywhr by the formula of the paper with matrices."""

    def covariance(box: np.ndarray) -> np.ndarray:
        turn = np.array([[math.cos(box[4]), -math.sin(box[4])], [math.sin(box[4]), math.cos(box[4])]])
        return turn @ np.diag(box[2:4] ** 2 / 12) @ turn.T

    one, two = covariance(a), covariance(b)
    both, apart = (one + two) / 2, a[:2] - b[:2]
    distance = apart @ np.linalg.inv(both) @ apart / 8
    distance += math.log(np.linalg.det(both) / math.sqrt(np.linalg.det(one) * np.linalg.det(two))) / 2
    return 1 - math.sqrt(1 - math.exp(-distance))


def test_lines_and_files(tmp_path):
    rows = found(
        (1, 1, 0.5, 50, 40, 20, 10, 0), (0, 1, 0.25, 10, 10, 4, 2, math.pi / 2), (1, 1, 0.75, 150, 40, 20, 10, 0)
    )
    write_task1(tmp_path, ["a", "b"], rows, NAMES)
    for folder in (PER_TILE, MERGED):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [
            "Task1_harbor.txt", "Task1_large-vehicle.txt", "Task1_plane.txt",
        ]  # fmt: skip
        assert (tmp_path / folder / "Task1_large-vehicle.txt").read_text().splitlines() == [
            "a 0.25 9.0 12.0 11.0 12.0 11.0 8.0 9.0 8.0",
            "b 0.75 160.0 45.0 160.0 35.0 140.0 35.0 140.0 45.0",
            "b 0.5 60.0 45.0 60.0 35.0 40.0 35.0 40.0 45.0",
        ]
        assert (tmp_path / folder / "Task1_plane.txt").read_text() == ""


def test_images_are_called_as_their_files(tmp_path):
    """predictions.json has the number 7 as COCO asks for, and Task1 files have the zeros too."""
    samples = [Sample(tmp_path / "0007.png", (50, 60), Instances.empty())]
    settings = load_settings({"save_json": True})
    write_files(tmp_path, samples, found((0, 0, 0.5, 10, 10, 4, 2, 0)), NAMES, settings, coco=False)
    for folder in (PER_TILE, MERGED):
        assert (tmp_path / folder / "Task1_plane.txt").read_text().startswith("0007 0.5 ")
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["image_id"] == 7


def test_tiles_are_put_together(tmp_path):
    """One object seen from two tiles is one detection of the image, the better one."""
    images = ["P1__1024__0___0", "P1__1024__824___100", "P2__1024__0___0", "P1__2048__0___0"]
    rows = found(
        (0, 0, 0.6, 900, 500, 60, 20, 0.5),
        (1, 0, 0.9, 76, 400, 60, 20, 0.5),  # the same
        (3, 0, 0.7, 901, 501, 60, 20, 0.5),  # the same, in another window
        (1, 1, 0.5, 76, 400, 60, 20, 0.5),  # of another class
        (2, 0, 0.8, 900, 500, 60, 20, 0.5),  # of another image
        (0, 0, 0.3, 100, 100, 60, 20, 0.5),
    )
    write_task1(tmp_path, images, rows, NAMES)
    planes = [line.split() for line in (tmp_path / MERGED / "Task1_plane.txt").read_text().splitlines()]
    assert [line[:2] for line in planes] == [["P1", "0.9"], ["P1", "0.3"], ["P2", "0.8"]]
    corners = np.array(planes[0][2:], dtype=float).reshape(4, 2)
    assert corners.mean(0) == pytest.approx([900, 500], abs=1e-3)
    assert len((tmp_path / PER_TILE / "Task1_plane.txt").read_text().splitlines()) == 5
    assert (tmp_path / MERGED / "Task1_large-vehicle.txt").read_text().startswith("P1 0.5 ")


def test_tiles_of_resized_images():
    stems, merged = merge_tile_files(["P1__0.5__100___200"], found((0, 0, 0.5, 10, 20, 30, 8, 0.3)))
    assert stems == ["P1"] and merged.xywhr[0].tolist() == pytest.approx([220, 440, 60, 16, 0.3])


def test_merging_against_a_slow_fast_nms():
    random = np.random.RandomState(1)
    images = [f"P{stem}__256__{x}___0" for stem in (1, 2) for x in (0, 200)]
    rows = [
        (image, random.randint(2), score, *random.uniform(0, 256, 2), *random.uniform(20, 90, 2), random.uniform(0, 3))
        for image in range(4)
        for score in random.uniform(0, 1, 40)
    ]
    detections = found(*sorted(rows, key=lambda row: -row[2]))
    stems, merged = merge_tile_files(images, detections)
    expected, seen = [], []
    for image, cls, score, box in zip(
        *(column.tolist() for column in (detections.image, detections.classes, detections.scores)),
        detections.xywhr.double().numpy(),
    ):
        box = box + [200 * (image % 2), 0, 0, 0, 0]
        key = (image // 2, cls)
        if not any(other == key and overlap(box, better) > 0.3 for other, better in seen):
            expected.append((*key, score, *box))
        seen.append((key, box))  # Fast NMS: also one that is dropped
    assert stems == ["P1", "P2"] and 20 < len(expected) < 120
    columns = (merged.image, merged.classes, merged.scores)
    table = torch.cat([*(column[:, None].double() for column in columns), merged.xywhr], 1)
    np.testing.assert_allclose(table.numpy(), np.array(expected), atol=1e-9)


def test_val_writes_them_for_tiles(tmp_path, monkeypatch, capsys):
    """From a dataset of DOTA through tiles to the files: every line lies in its image."""
    monkeypatch.chdir(tmp_path)
    lay_out_dota(tmp_path / "DOTA", count=1)
    (tmp_path / "DOTA/classes.txt").write_text("ship\nstorage tank\nharbor\n")
    assert main("data to=yolo format=dota data=DOTA out=tiles tile=160".split()) == 0
    model = tiny_obb(["ship", "storage tank", "harbor"])
    save_checkpoint(tmp_path / "best.pt", Checkpoint(model.graph, model.state_dict()))
    line = (
        "val model=best.pt data=tiles imgsz=64 plots=False device=cpu workers=0 conf=0.001 max_det=20 project=r name=v"
    )
    assert main([*line.split(), "save_json=True"]) == 0
    assert "Task1 files: predictions_txt (9 images), predictions_merged_txt (1 images" in capsys.readouterr().out
    records = json.loads((tmp_path / "r/v/predictions.json").read_text())
    names = {"Task1_ship.txt", "Task1_storage-tank.txt", "Task1_harbor.txt"}
    for folder in (PER_TILE, MERGED):
        assert {path.name for path in (tmp_path / "r/v" / folder).iterdir()} == names
    lines = [line.split() for name in names for line in (tmp_path / "r/v" / PER_TILE / name).read_text().splitlines()]
    expected = [[each["image_id"], each["score"], *each["poly"]] for each in records]
    assert sorted([line[0], *map(float, line[1:])] for line in lines) == sorted(expected) and len(expected) > 9
    merged = [line.split() for name in names for line in (tmp_path / "r/v" / MERGED / name).read_text().splitlines()]
    assert {line[0] for line in merged} == {"P1000"} and 0 < len(merged) < len(lines)
    middles = np.array([line[2:] for line in merged], dtype=float).reshape(-1, 4, 2).mean(1)
    assert (middles.max(0) > 160).all() and (middles > -60).all() and (middles < [460, 360]).all()
    assert main([*line.split()]) == 0 and not (tmp_path / "r/v2").exists()  # nothing is to be written
