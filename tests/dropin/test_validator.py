"""Validators that scripts construct and subclass: batch by batch they measure what our validation measures."""

from __future__ import annotations

import json

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.dropin.engine.detections import Detections
from bitfalcon_plugin.dropin.models.yolo.detect import DetectionTrainer, DetectionValidator
from tests.dropin.test_trainer import DATA, RUN
from tests.helpers.bright import Bright
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.finder import measure_without_losses

ARGS = {"data": "data/data.yaml", "imgsz": 64, "device": "cpu", "plots": False, "batch": 3}


@pytest.fixture()
def bright(place, monkeypatch):
    """A network that finds the coloured rectangles."""
    measure_without_losses(monkeypatch)
    return Bright()


class Wide(Bright):
    """Makes the boxes too wide and adds green ones, so that the numbers are between 0 and 1."""

    def decode(self, images):
        out = super().decode(images)
        out[:, 2] *= 1.2
        out[:, 5] += 0.3
        return out


class Stepwise(DetectionValidator):
    """Replaces every step by itself, so that the validation goes batch by batch."""

    def postprocess(self, preds):
        return super().postprocess(preds)


def test_batch_by_batch_the_numbers_are_the_same(bright):
    ours, stepwise = DetectionValidator(args=ARGS), Stepwise(args=ARGS)
    numbers, others = ours(model=Wide()), stepwise(model=Wide())
    assert 0.3 < numbers["metrics/mAP50-95(B)"] < 1 and set(numbers) == {*ours.metrics.keys, "fitness"}
    assert others == pytest.approx(numbers, abs=1e-6)
    assert (ours.seen, stepwise.seen) == (4, 4) and ours.names == stepwise.names == {0: "red", 1: "green", 2: "blue"}
    assert (ours.confusion_matrix.matrix == stepwise.confusion_matrix.matrix).all()
    assert set(stepwise.metrics.speed) == set(ours.speed) == {"preprocess", "inference", "loss", "postprocess"}


class Everything(DetectionValidator):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []

    def preprocess(self, batch):
        assert batch["img"].dtype == torch.uint8
        self.calls.append("preprocess")
        return super().preprocess(batch)

    def init_metrics(self, model):
        self.calls.append("init_metrics")
        super().init_metrics(model)

    def postprocess(self, preds):
        decoded, _ = preds if isinstance(preds, tuple) else (preds, None)
        assert decoded.shape[1] == 7
        return [each[:0] if self.drops else each for each in super().postprocess(preds)]

    def update_metrics(self, preds, batch):
        self.calls.append("update_metrics")
        for index, each in enumerate(preds):
            prepared = self._prepare_batch(index, batch)
            assert each["bboxes"].shape == (len(each), 4) and prepared["bboxes"].shape[1] == 4
            tp = self._process_batch(each, prepared)["tp"]
            self.stats["tp"].append(tp)
        super().update_metrics(preds, batch)

    def get_stats(self):
        self.calls.append("get_stats")
        return {**super().get_stats(), "mine": sum(int(tp[:, 0].sum()) for tp in self.stats["tp"])}

    def finalize_metrics(self, *args, **kwargs):
        self.calls.append("finalize_metrics")
        super().finalize_metrics(*args, **kwargs)

    def print_results(self):
        print("THE TABLE OF THE SCRIPT")

    def plot_val_samples(self, batch, ni):
        self.calls.append(f"plot_val_samples {ni}")

    def plot_predictions(self, batch, preds, ni):
        self.calls.append(f"plot_predictions {ni} {len(preds)}")

    drops = False


def test_methods_that_are_replaced_act(bright, capsys):
    validator = Everything(args={**ARGS, "plots": True})
    events = []
    for event in ("on_val_start", "on_val_batch_start", "on_val_batch_end", "on_val_end"):
        validator.add_callback(event, lambda each, event=event: events.append((event, each is validator)))
    numbers = validator(model=bright)
    assert numbers["mine"] == 4 and numbers["metrics/mAP50(B)"] > 0.99 and validator.metrics.box.map50 > 0.99
    of_batch = ["preprocess", "update_metrics"]
    first, second = ([f"plot_val_samples {n}", f"plot_predictions {n} {count}"] for n, count in ((0, 3), (1, 1)))
    order = ["init_metrics", *of_batch, *first, *of_batch, *second, "get_stats", "finalize_metrics"]
    assert validator.calls == order
    out = capsys.readouterr().out
    assert "THE TABLE OF THE SCRIPT" in out and "COCO (pycocotools)" not in out
    batch = ["on_val_batch_start", "on_val_batch_end"]
    assert events == [(event, True) for event in ("on_val_start", *batch, *batch, "on_val_end")]


def test_dropped_detections_count_nowhere(bright, capsys):
    validator = Everything(args={**ARGS, "tile": 64})
    validator.drops = True
    numbers = validator(model=bright)
    assert numbers["mine"] == 0 and numbers["metrics/mAP50(B)"] == 0
    assert "tile=64 has no effect" in capsys.readouterr().err


def test_a_script_may_count_by_itself(bright):
    class Counting(DetectionValidator):
        def init_metrics(self, model):
            super().init_metrics(model)
            self.found = 0

        def update_metrics(self, preds, batch):
            self.found += sum(len(each) for each in preds)

        def get_stats(self):
            return {**super().get_stats(), "found": self.found}

    numbers = Counting(args=ARGS)(model=bright)
    assert numbers["found"] == 4 and numbers["fitness"] == 0


def test_files_of_a_validation_batch_by_batch(bright):
    validator = Stepwise(args={**ARGS, "save_json": True, "save_txt": True, "plots": True}, save_dir="mine")
    validator(model=bright)
    rows = json.loads((validator.save_dir / "predictions.json").read_text())
    assert len(rows) == 4 and len(list((validator.save_dir / "labels").glob("*.txt"))) == 4
    for kind in ("labels", "pred"):
        assert (validator.save_dir / f"val_batch0_{kind}.jpg").is_file()
    assert {path.name for path in validator.plots} >= {"val_batch0_pred.jpg", "val_batch1_labels.jpg"}


def test_batches_of_a_script(bright):
    image = torch.full((1, 3, 64, 64), 114, dtype=torch.uint8)
    image[0, :, 8:40, 16:48] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    labels = {"cls": torch.zeros(1, 1), "bboxes": torch.tensor([[0.5, 0.375, 0.5, 0.5]]), "batch_idx": torch.zeros(1)}
    batch = {"img": image, **labels, "ori_shape": [(128, 128)]}
    validator = DetectionValidator(dataloader=[batch], args={"imgsz": 64, "plots": False})
    assert validator(model=bright)["metrics/mAP50-95(B)"] > 0.99
    assert validator._measuring.joined().boxes.tolist() == [[32, 16, 96, 80]]


def test_the_validator_of_a_trainer(place):
    class Mine(DetectionTrainer):
        def get_validator(self):
            return Everything(self.test_loader, save_dir=self.save_dir, args=self.args, _callbacks=self.callbacks)

    trainer = Mine(overrides=RUN)
    lines = []
    trainer.add_callback("on_fit_epoch_end", lambda each: lines.append(dict(each.metrics)))
    trainer.train()
    plain = DetectionTrainer(overrides=RUN)
    plain.add_callback("on_fit_epoch_end", lambda each: lines.append(dict(each.metrics)))
    plain.train()
    assert lines[0].pop("mine") >= 0 and lines[0] == pytest.approx(lines[2], abs=2e-5)
    assert lines[0]["val/box_loss"] > 0 and trainer.validator.calls.count("get_stats") == 2


def test_a_checkpoint_by_its_path(place):
    yolo = YOLO("small.yaml")
    yolo.train(epochs=1, **DATA)
    best = yolo.ckpt_path
    expected = yolo.val(plots=False).results_dict
    assert DetectionValidator(args={"model": best, "plots": False})() == expected
    assert DetectionValidator(args={"plots": False, "data": "data/data.yaml"})(model=best) == expected
    assert DetectionValidator(args={**ARGS, "batch": 16})(model=yolo.model) == expected


def test_match_predictions_takes_the_best_pair_once():
    validator = DetectionValidator(args=ARGS)
    overlap = torch.tensor([[0.9, 0.95, 0.6], [0.0, 0.7, 0.1]])
    correct = validator.match_predictions(torch.tensor([0, 0, 1]), torch.tensor([0, 0]), overlap)
    assert correct[:, 0].tolist() == [False, True, False] and correct.shape == (3, 10)
    assert correct[:, -1].tolist() == [False, True, False]


def test_detections_are_rows_and_columns_by_name():
    rows = torch.arange(12.0).view(2, 6)
    each = Detections.of(rows)
    assert each["conf"].equal(rows[:, 4]) and each["bboxes"].equal(rows[:, :4]) and len(each[each[:, 4] > 5]) == 1
    assert set(dict(each.items())) == {"bboxes", "conf", "cls", "extra"} and "conf" in each


def test_matches_that_a_script_makes(bright):
    class Strict(DetectionValidator):
        def match_predictions(self, pred_classes, true_classes, iou, use_scipy=False):
            return super().match_predictions(pred_classes, true_classes, iou) & (pred_classes != 0)[:, None]

    class Older(DetectionValidator):
        def _process_batch(self, detections, gt_bboxes, gt_cls):
            assert torch.allclose(gt_bboxes, detections[:, :4], atol=1) and gt_bboxes.max() < 64
            return super()._process_batch(detections, gt_bboxes, gt_cls)

    usual, strict = DetectionValidator(args=ARGS)(model=bright), Strict(args=ARGS)
    numbers = strict(model=bright)
    assert numbers["metrics/mAP50(B)"] < 0.7 < usual["metrics/mAP50(B)"] and strict.metrics.box.ap50.tolist()[0] == 0
    assert Older(args=ARGS)(model=bright)["metrics/mAP50(B)"] == pytest.approx(usual["metrics/mAP50(B)"], abs=0.01)


def test_labels_and_detections_that_a_script_prepares(bright):
    class NoLabels(DetectionValidator):
        def _prepare_batch(self, si, batch):
            prepared = super()._prepare_batch(si, batch)
            keep = prepared["cls"] != 0
            return {**prepared, "cls": prepared["cls"][keep], "bboxes": prepared["bboxes"][keep]}

    class Newer(DetectionValidator):
        def _prepare_pred(self, pred):
            return {"bboxes": pred["bboxes"], "conf": pred["conf"], "cls": pred["cls"] * 0}

    class Older(DetectionValidator):
        def _prepare_pred(self, pred, pbatch):
            assert pbatch["bbox"].shape[1] == 4
            return super()._prepare_pred(pred, pbatch)[:0]

    validator = NoLabels(args=ARGS)
    validator(model=bright)
    assert validator.metrics.instances == 2 and validator.metrics.images == 4
    assert DetectionValidator(args=ARGS)(model=bright)["metrics/mAP50(B)"] > 0.99
    assert 0.2 < Newer(args=ARGS)(model=bright)["metrics/mAP50(B)"] < 0.5
    assert Older(args=ARGS)(model=bright)["metrics/mAP50(B)"] == 0


def test_counting_in_lists_as_older_scripts_do(bright):
    class Listing(DetectionValidator):
        def update_metrics(self, preds, batch):
            for si, pred in enumerate(preds):
                self.seen += 1
                pbatch = self._prepare_batch(si, batch)
                cls, bbox = pbatch.pop("cls"), pbatch.pop("bbox")
                predn = self._prepare_pred(pred, {**pbatch, "bbox": bbox})
                stat = {"conf": predn[:, 4], "pred_cls": predn[:, 5], "target_cls": cls}
                stat["tp"] = self._process_batch(predn, bbox, cls)
                for key, value in stat.items():
                    self.stats[key].append(value)

    listing = Listing(args=ARGS)
    assert listing(model=bright)["metrics/mAP50(B)"] > 0.98 and listing.metrics.box.map50 > 0.98


def test_files_that_a_script_writes(bright):
    class Writing(DetectionValidator):
        def pred_to_json(self, predn, filename):
            super().pred_to_json(predn, filename)
            self.jdict[-1]["mine"] = True

        def save_one_txt(self, predn, save_conf, shape, file):
            super().save_one_txt(predn, save_conf, shape, file)
            file.write_text(file.read_text() + "mine\n")

        def eval_json(self, stats):
            return {**stats, "count": len(self.jdict)}

    validator = Writing(args={**ARGS, "save_json": True, "save_txt": True}, save_dir="mine")
    assert validator(model=bright)["count"] == 4
    assert [row["mine"] for row in json.loads((validator.save_dir / "predictions.json").read_text())] == [True] * 4
    cls, *box, last = (validator.save_dir / "labels/0.txt").read_text().split()
    expected = (validator.save_dir.parent / "data/labels/val/0.txt").read_text().split()
    assert (cls, last) == (expected[0], "mine") and [float(v) for v in box] == pytest.approx(
        [*map(float, expected[1:])], abs=1e-3
    )
