"""A pose model trained on small bars: points are learned, files are written, and each setting acts."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.callbacks import Events
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.pose import pose_loss
from bitfalcon_plugin.train.run import run_train
from bitfalcon_plugin.yolo import YOLO
from tests.helpers.posed import KEYS, lay_out
from tests.helpers.small_runs import trained_in
from tests.train.test_every_setting import SMALL, load_settings

COLUMNS = (
    "train/box_loss train/pose_loss train/kobj_loss train/cls_loss train/dfl_loss metrics/precision(B) "
    "metrics/recall(B) metrics/mAP50(B) metrics/mAP50-95(B) metrics/precision(P) metrics/recall(P) metrics/mAP50(P) "
    "metrics/mAP50-95(P) val/box_loss val/pose_loss val/kobj_loss val/cls_loss val/dfl_loss lr/pg0 lr/pg1 lr/pg2"
)


def settings(**given):
    return load_settings({**SMALL, "model": "small-pose.yaml", "task": "pose", **given})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pose")
    lay_out(folder, train=24)
    options = {"epochs": 25, "optimizer": "AdamW", "lr0": 0.01, "mosaic": 0.0, "plots": True, "name": "bars"}
    return folder, trained_in(folder, settings(**options))


def test_points_are_learned(trained):
    folder, result = trained
    assert result.metrics.pose.map50 > 0.8 and result.metrics.fitness > result.metrics.ap
    found = YOLO(result.best).predict(folder / "data/images/val/0.png", imgsz=64, conf=0.1, verbose=False)[0]
    _, *values = map(float, (folder / "data/labels/val/0.txt").read_text().split())
    truth = torch.tensor(values[4:]).view(2, 3)[:, :2] * torch.tensor([64, 48])
    assert found.keypoints.data.shape[1:] == (2, 3) and found.keypoints.has_visible
    assert (found.keypoints.xy[0] - truth).norm(dim=1).max() < 6 and found.keypoints.conf[0].min() > 0.5


def test_the_files_of_a_run(trained):
    folder, result = trained
    run = folder / "runs/bars"
    with open(run / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [name.strip() for name in rows[0]][2:] == COLUMNS.split() and len(rows) == 25
    assert float(rows[-1]["train/pose_loss"]) < float(rows[0]["train/pose_loss"])
    assert (run / "train_batch0.jpg").is_file() and (run / "val_batch0_pred.jpg").is_file()
    assert (run / "PosePR_curve.png").is_file() or importlib.util.find_spec("matplotlib") is None


def test_the_checkpoint_knows_the_keypoints_of_the_data(trained):
    _, result = trained
    checkpoint = load_checkpoint(result.best)
    layout = checkpoint.model().keypoints
    assert layout.as_keys() == {**{key: KEYS[key] for key in KEYS if "kpt" in key or key == "flip_idx"},
                                "skeleton": [[0, 1]]}  # fmt: skip
    assert "metrics/mAP50-95(P)" in checkpoint.metrics


def test_limbs_of_the_skeleton_are_drawn(trained):
    folder, result = trained
    found = YOLO(result.best).predict(folder / "data/images/val/0.png", imgsz=64, conf=0.1, verbose=False)[0]
    assert found.keypoints.limbs == [(0, 1)] and found[:1].cpu().keypoints.limbs == [(0, 1)]
    assert (found.plot() != found.plot(kpt_line=False)).any()


def test_pycocotools_gets_the_numbers_of_val_from_predictions_json(trained):
    folder, result = trained
    options = {"imgsz": 64, "project": str(folder / "runs"), "name": "v", "save_json": True, "save_txt": True}
    metrics = YOLO(result.best).val(data=folder / "data/data.yaml", **options)
    records = json.loads((folder / "runs/v/predictions.json").read_text())
    assert records and len(records[0]["keypoints"]) == 6 and records[0]["category_id"] in (1, 2)
    assert len((folder / "runs/v/labels/0.txt").read_text().splitlines()[0].split()) == 11
    truth = coco_truth(folder / "data")
    evaluation = COCOeval(truth, truth.loadRes(records), "keypoints")
    evaluation.params.kpt_oks_sigmas = torch.tensor([0.1, 0.1]).numpy()
    evaluation.params.maxDets, evaluation.params.areaRng = [300], [[0, 1e10]]
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval["precision"][0].mean() == pytest.approx(metrics.part_ap50, abs=1e-6)
    assert evaluation.eval["precision"].mean() == pytest.approx(metrics.part_ap, abs=1e-3)  # records are rounded


def coco_truth(data: Path) -> COCO:
    """The validation labels as annotations, from the label files alone."""
    annotations, images = [], []
    for path in sorted((data / "labels/val").iterdir()):
        images.append({"id": int(path.stem), "height": 48, "width": 64})
        cls, cx, cy, w, h, *points = map(float, path.read_text().split())
        w, h = w * 64, h * 48
        points = [value * (64, 48, 1)[index % 3] for index, value in enumerate(points)]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": int(path.stem),
                "category_id": int(cls) + 1,
                "iscrowd": 0,
                "keypoints": points,
                "num_keypoints": sum(v > 0 for v in points[2::3]),
                "area": 0.53 * w * h,
                "bbox": [cx * 64 - w / 2, cy * 48 - h / 2, w, h],
            }
        )
    truth = COCO()
    truth.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}
    truth.createIndex()
    return truth


def test_predict_writes_points(trained):
    folder, result = trained
    source, options = (
        folder / "data/images/val",
        {"imgsz": 64, "conf": 0.1, "project": str(folder / "runs"), "name": "p"},
    )
    results = YOLO(result.best).predict(source, save=True, save_txt=True, save_json=True, verbose=False, **options)
    records = json.loads((folder / "runs/p/predictions.json").read_text())
    assert len(records) == sum(map(len, results)) and len(records[0]["keypoints"]) == 6
    assert len((folder / "runs/p/labels/0.txt").read_text().split()) % 11 == 0
    record = results[0].summary()[0]
    assert list(record["keypoints"]) == ["x", "y", "visible"] and len(record["keypoints"]["x"]) == 2
    nothing = YOLO(result.best).predict(source / "0.png", conf=1.0, imgsz=64, verbose=False)[0]
    assert nothing.keypoints.shape == (0, 2, 3) and len(nothing) == 0


def test_other_keypoints_than_the_model_has_are_refused(trained, tmp_path):
    _, result = trained
    lay_out(tmp_path, kpt_shape=[2, 2])
    for path in (tmp_path / "data/labels").rglob("*.txt"):
        path.write_text(path.read_text().replace(" 2 ", " ").replace(" 2\n", "\n").replace("0 0 0", "0 0"))
    with pytest.raises(UserError, match=r"keypoints of kpt_shape: \[2, 3\].* has kpt_shape: \[2, 2\]"):
        YOLO(result.best).val(data=tmp_path / "data/data.yaml", imgsz=64, plots=False)


def test_augmented_prediction_is_said_to_have_no_effect(trained, capsys):
    folder, result = trained
    plain, augmented = (
        YOLO(result.best).predict(folder / "data/images/val/0.png", imgsz=64, augment=on, verbose=False)[0]
        for on in (False, True)
    )
    assert "keypoints are computed at one scale" in capsys.readouterr().err
    assert torch.equal(plain.keypoints.data, augmented.keypoints.data)


def test_a_script_computes_the_losses_of_a_batch(trained):
    _, result = trained
    net, images = YOLO(result.best).model, torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    batch = {
        "img": images,
        "batch_idx": torch.tensor([0.0, 1]),
        "cls": torch.tensor([[0.0], [1]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.3, 0.4, 0.5, 0.5]]),
        "keypoints": torch.tensor([[[0.4, 0.5, 2], [0.6, 0.5, 1]], [[0.2, 0.4, 2], [0.0, 0.0, 0]]]),
    }
    total, items = net.loss(batch)
    scale = torch.tensor([96, 64, 1])
    centre, half = batch["bboxes"][:, :2] * scale[:2], batch["bboxes"][:, 2:] * scale[:2] / 2
    labels = Instances(torch.cat([centre - half, centre + half], 1), torch.tensor([0, 1]), image=torch.tensor([0, 1]))
    labels = replace(labels, keypoints=batch["keypoints"] * scale)
    raw = load_checkpoint(result.best).model().float()(images)
    expected = pose_loss(raw, labels, sizes=raw.sizes, strides=(8, 16), sigmas=(0.1, 0.1))
    torch.testing.assert_close(items, torch.stack([*expected.values()]).detach())
    torch.testing.assert_close(total, 2 * items.sum(), check_stride=False)
    assert net.kpt_shape == [2, 3] and items[1] > 0
    for keypoints, found in ((None, "no keypoints"), (torch.zeros(2, 2, 2), r"keypoints \(2, 2, 2\)")):
        with pytest.raises(UserError, match=rf"The batch has {found}; expected \(2, 2, 3\)"):
            net.loss({**{key: value for key, value in batch.items() if key != "keypoints"}, "keypoints": keypoints})
    empty = {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
    assert net.loss({"img": images, **empty})[1][1] == 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A function that trains an epoch with settings; the sum of the best weights."""
    folder, known = tmp_path_factory.mktemp("runs"), {}
    lay_out(folder)

    def train(**given) -> float:
        key = str(given)
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                result = run_train(settings(epochs=1, project=str(folder / "runs"), **given), None)
            known[key] = sum(float(t.double().abs().sum()) for t in load_checkpoint(result.best).state.values())
        return known[key]

    return train


@pytest.mark.parametrize("given", [{"pose": 3.0}, {"kobj": 5.0}, {"fliplr": 0.0}], ids=str)
def test_a_setting_changes_the_weights(weights, given):
    assert weights(**given) != weights()


def test_without_flip_idx_mirrors_are_off(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, flip_idx=None, kpt_oks_sigmas=None)
    result = run_train(settings(epochs=1), None)
    shown = capsys.readouterr()
    assert "no flip_idx: fliplr and flipud are off" in shown.err and "sigma of the keypoints: 0.5" in shown.err
    assert "Augmentation: " in shown.out and "flip" not in shown.out.partition("Augmentation: ")[2].splitlines()[0]
    assert yaml.safe_load(Path("runs/train/args.yaml").read_text())["fliplr"] == 0
    assert result.trainer.loss_options == {"sigmas": (0.5, 0.5)}
    run_train(settings(epochs=1, fliplr=0.7), None)
    shown = capsys.readouterr()
    assert "note: fliplr=0.7 has no effect with this dataset: it is 0.0." in shown.err and "fliplr 0.7" not in shown.out
    assert yaml.safe_load(Path("runs/train2/args.yaml").read_text())["fliplr"] == 0


def test_a_wrong_flip_idx_costs_ap(tmp_path):
    """Left and right look alike, so that their places alone tell them apart, and half of the images are mirrored."""
    ap = {}
    for name, flip in (("right", [1, 0]), ("wrong", [0, 1])):
        (tmp_path / name).mkdir()
        lay_out(tmp_path / name, train=24, val=8, dots=("white", "white"), flip_idx=flip)
        options = {"epochs": 25, "optimizer": "AdamW", "lr0": 0.01, "mosaic": 0.0, "val": False, "fliplr": 0.5}
        metrics = trained_in(tmp_path / name, settings(**options)).metrics
        ap[name] = metrics.part_ap
        assert metrics.ap > 0.5  # of the boxes, which a mirror does not mix up
    assert ap["right"] > 0.5 and ap["right"] - ap["wrong"] > 0.2


def test_one_class_and_points_without_visibility(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, kpt_shape=[2, 2])
    for path in (tmp_path / "data/labels").rglob("*.txt"):
        cls, *values = path.read_text().split()
        path.write_text(" ".join([cls, *values[:4], *values[4:6], *values[7:9]]) + "\n")
    result = run_train(settings(epochs=1, single_cls=True), None)
    assert "kpt_shape=[17, 3] of the model becomes kpt_shape=[2, 2] of the dataset" in capsys.readouterr().out
    assert "kobj_loss" in result.trainer.task.losses and result.metrics.losses["kobj_loss"] == 0
    model = load_checkpoint(result.best).model()
    assert model.names == {0: "item"} and [*model.keypoints.names] == [0] and model.keypoints.shape == (2, 2)
    found = YOLO(result.best).predict("data/images/val/0.png", imgsz=64, conf=0.0001, verbose=False)[0]
    assert found.keypoints.conf is None and found.keypoints.data.shape[1:] == (2, 2) and len(found)


def test_a_run_that_is_stopped_goes_on_with_equal_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    options = {"epochs": 2, "mosaic": 0.5, "name": "cut"}
    run_train(settings(**{**options, "name": "whole"}), None)

    def stop(trainer):
        if (trainer.epoch, trainer.batch) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    events = Events()
    events.callbacks["on_train_batch_end"].append(stop)
    with pytest.raises(SystemExit):
        run_train(settings(**options), None, events)
    document = yaml.safe_load((tmp_path / "data/data.yaml").read_text())
    (tmp_path / "data/data.yaml").write_text(yaml.safe_dump({**document, "flip_idx": [0, 1]}))
    assert main(["train", "resume=runs/cut/weights/last.pt"]) == 2  # other keypoints
    (tmp_path / "data/data.yaml").write_text(yaml.safe_dump(document))
    assert main(["train", "resume=runs/cut/weights/last.pt"]) == 0
    whole, cut = (load_checkpoint(f"runs/{name}/weights/last.pt").state for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


def test_callbacks_get_the_losses_and_the_numbers_of_poses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    events, seen = Events(), {}
    events.callbacks["on_train_batch_end"].append(lambda trainer: seen.update(losses=trainer.loss_names))
    events.callbacks["on_val_end"].append(lambda validator: seen.update(keys=validator.metrics.keys))
    run_train(settings(epochs=1), None, events)
    assert seen["losses"] == ("box_loss", "pose_loss", "kobj_loss", "cls_loss", "dfl_loss")
    assert seen["keys"][4:] == [f"metrics/{name}(P)" for name in ("precision", "recall", "mAP50", "mAP50-95")]


def test_detection_weights_are_taken_over(tmp_path, monkeypatch, capsys):
    from tests.helpers.coloured import lay_out as lay_out_boxes

    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    (tmp_path / "boxes").mkdir()
    lay_out_boxes(tmp_path / "boxes")
    start = load_settings({**SMALL, "model": "boxes/small.yaml", "data": "boxes/data/data.yaml", "epochs": 1})
    best = run_train(start, None).best
    run_train(settings(epochs=1, pretrained=str(best)), None)
    told = capsys.readouterr()
    assert "tensors fit and are taken over; the first that does not: model.5.cv4" in told.out
    assert "has no effect: by its head" not in told.err
    run_train(settings(epochs=1, model=str(best)), load_checkpoint(best))  # task=pose is given, the file detects
    told = capsys.readouterr().err
    assert f"task='pose' has no effect: by its head '{best}' is a model for detect" in told
    assert f"a graph of task=pose and pretrained={best} start from its weights" in told


def test_a_detection_run_on_poses_uses_their_boxes(tmp_path, monkeypatch, capsys):
    from tests.helpers.coloured import GRAPH

    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    (tmp_path / "small.yaml").write_text(GRAPH)
    result = run_train(load_settings({**SMALL, "epochs": 1}), None)
    assert result.metrics.instances == 4 and "only the boxes of the labels are used" in capsys.readouterr().err
    (tmp_path / "data/data.yaml").write_text(yaml.safe_dump({**KEYS, "kpt_shape": None}))
    with pytest.raises(UserError, match="no kpt_shape, and a model of task=pose needs one.*four corners for task=obb"):
        run_train(settings(epochs=1), None)


def test_a_batch_without_labels_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    for index in range(1, 10):
        (tmp_path / f"data/labels/train/{index}.txt").write_text("")
    result = run_train(settings(epochs=1, batch=2, mosaic=0.0), None)
    assert result.trainer.guard.skipped == 0
