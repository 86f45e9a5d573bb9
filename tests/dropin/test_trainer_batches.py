"""Batches of trainers with keypoints and with oriented boxes, as scripts have them (spec/pose-obb.md 1.3 and 2.4)."""

from __future__ import annotations

import csv
import math

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data.augmentation.augment import Batch
from bitfalcon_plugin.dropin.engine.batches import batch_of, dict_of
from bitfalcon_plugin.dropin.models.yolo.obb import OBBTrainer
from bitfalcon_plugin.dropin.models.yolo.pose import PoseTrainer
from bitfalcon_plugin.dropin.nn.tasks import OBBModel, PoseModel
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.keypoint_layout import KeypointLayout
from bitfalcon_plugin.ops.rotated import corners_of, hulls_of
from bitfalcon_plugin.tasks import TASKS
from tests.helpers import posed, turned

RUN = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", "plots": False, "data": "data/data.yaml"}
KINDS = {"pose": (PoseTrainer, posed), "obb": (OBBTrainer, turned)}
MODELS = {"pose": PoseModel, "obb": OBBModel}
LAYOUT = KeypointLayout(2, 3)


def example(task: str) -> Batch:
    """Images of 40 x 80 pixels with two objects, of the second and of the first image."""
    images, classes = torch.rand(2, 3, 40, 80), torch.tensor([1, 0])
    xywhr = torch.tensor([[20.0, 10, 16, 8, math.pi / 6], [60, 20, 30, 12, 2.0]])
    boxes, image = hulls_of(corners_of(xywhr)), torch.tensor([0, 1])
    if task == "obb":
        return Batch(images, Instances(boxes, classes, image=image, xywhr=xywhr))
    points = torch.tensor([[[8.0, 4, 2], [16, 20, 0]], [[40, 10, 1], [80, 40, 2]]])
    return Batch(images, Instances(boxes, classes, image=image, keypoints=points))


def test_keypoints_in_shares_of_the_image():
    values = dict_of(example("pose"), ["a", "b"], TASKS["pose"], LAYOUT)
    expected = [[[0.1, 0.1, 2], [0.2, 0.5, 0]], [[0.5, 0.25, 1], [1, 1, 2]]]
    torch.testing.assert_close(values["keypoints"], torch.tensor(expected))
    empty = Batch(torch.rand(1, 3, 40, 80), Instances(torch.zeros(0, 4), torch.zeros(0).long(), image=torch.zeros(0)))
    assert dict_of(empty, ["a"], TASKS["pose"], LAYOUT)["keypoints"].shape == (0, 2, 3)
    assert "keypoints" not in dict_of(example("obb"), ["a", "b"], TASKS["obb"])
    assert dict_of(empty, ["a"], TASKS["obb"])["bboxes"].shape == (0, 5)


def test_sides_of_oriented_boxes_are_shares_of_width_and_height_whatever_the_angle():
    boxes = dict_of(example("obb"), ["a", "b"], TASKS["obb"])["bboxes"]
    expected = [[0.25, 0.25, 0.2, 0.2, math.pi / 6], [0.75, 0.5, 0.375, 0.3, 2.0]]
    torch.testing.assert_close(boxes, torch.tensor(expected))


@pytest.mark.parametrize("task", KINDS)
def test_a_dict_becomes_the_batch_that_it_was_made_from(task):
    batch, layout = example(task), LAYOUT if task == "pose" else None
    again = batch_of(dict_of(batch, ["a", "b"], TASKS[task], layout), torch.device("cpu"), TASKS[task])
    for name in ("boxes", "classes", "image", "keypoints", "xywhr"):
        one, other = getattr(batch.labels, name), getattr(again.labels, name)
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "task, change, said",
    [
        ("pose", {"keypoints": None}, "without keypoints; expected"),
        ("pose", {"keypoints": torch.zeros(2, 2, 2)}, r"keypoints \(2, 2, 2\); expected \(N, K, 3\)"),
        ("pose", {"bboxes": torch.zeros(2, 5)}, r"bboxes \(2, 5\) for task=pose; expected \(N, 4\)"),
        ("obb", {"bboxes": torch.zeros(2, 4)}, r"bboxes \(2, 4\) for task=obb; expected \(N, 5\).*angle"),
    ],
)
def test_columns_of_another_task_are_told(task, change, said):
    values = dict_of(example(task), ["a", "b"], TASKS[task], LAYOUT if task == "pose" else None)
    values = {key: value for key, value in {**values, **change}.items() if value is not None}
    with pytest.raises(UserError, match=said):
        batch_of(values, torch.device("cpu"), TASKS[task])


@pytest.mark.parametrize("task", KINDS)
def test_the_loss_of_a_script_model_reads_the_dict(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    KINDS[task][1].lay_out(tmp_path, train=1, val=1)
    options = {"data_kpt_shape": (2, 3)} if task == "pose" else {}
    model = MODELS[task](f"small-{task}.yaml", nc=3, verbose=False, **options).train()
    batch, layout = example(task), LAYOUT if task == "pose" else None
    batch = Batch(torch.rand(2, 3, 64, 96), batch.labels)
    _, parts = model.loss(dict_of(batch, ["a", "b"], TASKS[task], layout))
    raw = model.raw_of(model(batch.images))
    expected = TASKS[task].loss(raw, batch.labels, sizes=raw.sizes, strides=model.strides)
    torch.testing.assert_close(parts, torch.stack([*expected.values()]).detach(), rtol=1e-4, atol=1e-5)
    assert (parts > 0).all()


def losses(trainer) -> dict[str, float]:
    """The training losses of the only epoch, by column."""
    (row,) = csv.DictReader((trainer.save_dir / "results.csv").read_text().splitlines())
    return {name: float(value) for name, value in row.items() if name.startswith("train/")}


@pytest.mark.parametrize("task", KINDS)
def test_trainers_see_the_labels_and_train_on_what_they_return(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    kind, data = KINDS[task]
    data.lay_out(tmp_path, train=8, val=2)
    plain = kind(overrides={**RUN, "model": f"small-{task}.yaml", "name": "plain"})
    plain.train()
    seen = []

    class Trainer(kind):
        def preprocess_batch(self, batch):
            seen.append({key: getattr(value, "shape", value) for key, value in batch.items()})
            return super().preprocess_batch(batch)

    trainer = Trainer(overrides={**RUN, "model": f"small-{task}.yaml", "name": "own"})
    trainer.train()
    assert losses(trainer) == pytest.approx(losses(plain), rel=1e-2)  # the images were bytes in between
    assert len(losses(plain)) == len(TASKS[task].losses) and min(losses(plain).values()) > 0
    count = seen[0]["cls"][0]
    assert seen[0]["bboxes"] == (count, 5 if task == "obb" else 4)
    assert seen[0].get("keypoints") == ((count, 2, 3) if task == "pose" else None)
    for loader in (trainer.train_loader, trainer.test_loader):
        values = next(iter(loader))
        count = len(values["cls"])
        assert values["bboxes"].shape == (count, 5 if task == "obb" else 4) and count
        assert ("keypoints" in values) == (task == "pose")
        assert values.get("keypoints", torch.zeros(count, 2, 3)).shape == (count, 2, 3)
    assert ("kpt_shape" in trainer.data) == (task == "pose")
