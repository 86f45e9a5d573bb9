"""Trainer, validator and predictor of classification: as they are, and with methods that a script replaces."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin.dropin import YOLO
from bitfalcon_plugin.dropin.data.dataset import ClassificationDataset
from bitfalcon_plugin.dropin.models.yolo.classify import (
    ClassificationPredictor,
    ClassificationTrainer,
    ClassificationValidator,
)
from bitfalcon_plugin.dropin.nn.tasks import ClassificationModel
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from tests.helpers.classed import CLASSES, classed, save_classifier  # noqa: F401  the fixture

QUICK = {
    "model": "small-cls.yaml",
    "data": "data",
    "epochs": 1,
    "imgsz": 32,
    "batch": 4,
    "nbs": 4,
    "device": "cpu",
    "plots": False,
    "optimizer": "AdamW",
    "lr0": 0.01,
}
KEYS = ["metrics/accuracy_top1", "metrics/accuracy_top5"]


def state_of(trainer) -> dict[str, torch.Tensor]:
    return load_checkpoint(trainer.best).state


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_trainer_trains_as_yolo_does(classed):
    yolo = YOLO("small-cls.yaml")
    metrics = yolo.train(**{key: value for key, value in QUICK.items() if key != "model"})
    trainer = ClassificationTrainer(overrides=QUICK)
    trainer.train()
    assert isinstance(yolo.model, ClassificationModel) and yolo.task == trainer.args.task == "classify"
    assert trainer.loss_names == ("loss",) and same(state_of(trainer), load_checkpoint(yolo.trainer.best).state)
    assert list(trainer.metrics)[:2] == KEYS and trainer.validator.metrics.top1 == metrics.top1
    assert trainer.save_dir.parent.name == "classify" and trainer.data["names"] == dict(enumerate(CLASSES))
    assert ClassificationTrainer(overrides={"model": "small-cls.yaml", "data": "data"}).args.imgsz == 224


def test_a_batch_is_images_and_their_classes_and_may_be_changed(classed):
    seen = []

    class Passing(ClassificationTrainer):
        def preprocess_batch(self, batch):
            seen.append(batch)
            return super().preprocess_batch(batch)

    class Dark(ClassificationTrainer):
        def preprocess_batch(self, batch):
            batch = super().preprocess_batch(batch)
            return {**batch, "img": batch["img"] * 0.1}

    plain, passing, dark = (kind(overrides=QUICK) for kind in (ClassificationTrainer, Passing, Dark))
    for trainer in (plain, passing, dark):
        trainer.train()
    assert same(state_of(plain), state_of(passing)) and not same(state_of(plain), state_of(dark))
    assert seen[0]["img"].shape == (4, 3, 32, 32) and seen[0]["img"].dtype == torch.uint8
    assert seen[0]["cls"].shape == (4,) and seen[0]["cls"].dtype == torch.int64 and "bboxes" not in seen[0]
    assert all(CLASSES[int(cls)] in file for cls, file in zip(seen[0]["cls"], seen[0]["im_file"]))


def test_a_dataset_with_transforms_of_its_own_is_trained_and_validated(classed):
    """As scripts customise the augmentation of classifiers."""
    counts = {"train": 0, "val": 0}

    class Mirrored(ClassificationDataset):
        def __getitem__(self, i):
            counts["train" if "train" in self.root else "val"] += 1
            sample = super().__getitem__(i)
            return {**sample, "img": sample["img"].flip(2)}

    class Trainer(ClassificationTrainer):
        def build_dataset(self, img_path, mode="train", batch=None):
            return Mirrored(root=img_path, args=self.args, augment=mode == "train", prefix=mode)

    trainer = Trainer(overrides=QUICK)
    trainer.train()
    assert counts["train"] == 12 and counts["val"] >= 6
    assert trainer.validator.metrics.images == 6 and set(KEYS) <= set(trainer.metrics)
    assert load_checkpoint(trainer.best).graph.names == dict(enumerate(CLASSES))


def test_a_loss_of_the_network_replaces_ours(classed):
    class Model(ClassificationModel):
        def loss(self, batch, preds=None):
            logits = self(batch["img"]) if preds is None else preds
            logits = logits[1] if isinstance(logits, tuple) else logits
            loss = torch.nn.functional.cross_entropy(logits, batch["cls"], label_smoothing=0.1)
            return loss, loss.detach()

    class Trainer(ClassificationTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):
            torch.manual_seed(0)
            return Model("small-cls.yaml", nc=3, verbose=False)

    trainer = Trainer(overrides=QUICK)
    trainer.train()
    with open(trainer.csv) as file:
        header, row = (line.strip().split(",") for line in file)
    assert header[2] == "train/loss" and 0.5 < float(row[2]) < 3


def test_a_validator_gives_the_numbers_of_val_also_by_its_methods(classed):
    weights = save_classifier(classed)
    expected = YOLO(weights).val(data="data", imgsz=32, plots=False)
    args = {"model": str(weights), "data": "data", "imgsz": 32, "plots": False}

    class Passing(ClassificationValidator):
        def postprocess(self, preds):
            probabilities = super().postprocess(preds)
            assert probabilities.shape[1] == 3
            return probabilities

    class Counting(ClassificationValidator):
        """As scripts of the wider package count: `pred` and `targets`."""

        def update_metrics(self, preds, batch):
            self.pred.append(preds.argsort(1, descending=True)[:, :5].type(torch.int32).cpu())
            self.targets.append(batch["cls"].type(torch.int32).cpu())

    for kind in (ClassificationValidator, Passing, Counting):
        validator = kind(args=dict(args))
        numbers = validator()
        assert numbers == pytest.approx(expected.results_dict)
        assert validator.metrics.fitness == pytest.approx(expected.fitness)
    plain = Passing(args={**args, "plots": True})
    plain()
    assert (plain.confusion_matrix.matrix == expected.confusion_matrix.matrix).all()
    assert {"val_batch0_labels.jpg", "val_batch0_pred.jpg"} <= {path.name for path in plain.save_dir.iterdir()}


def test_a_predictor_gives_probabilities_also_by_its_methods(classed):
    weights = save_classifier(classed)
    expected = [each.probs.data for each in YOLO(weights).predict("data/val/red", imgsz=32, verbose=False)]
    calls = []

    class Passing(ClassificationPredictor):
        def preprocess(self, im):
            calls.append("preprocess")
            return super().preprocess(im)

        def postprocess(self, preds, img, orig_imgs):
            calls.append("postprocess")
            return super().postprocess(preds, img, orig_imgs)

    for kind in (ClassificationPredictor, Passing):
        predictor = kind(overrides={"model": str(weights), "imgsz": 32, "verbose": False, "save": False})
        results = predictor("data/val/red")
        assert all(each.boxes is None for each in results)
        torch.testing.assert_close([each.probs.data for each in results], expected)
    assert calls == ["preprocess", "postprocess"] * 2


@pytest.mark.parametrize("letterbox", [False, True])
def test_pre_transform_shows_what_the_network_sees(classed, letterbox):
    from tests.helpers.classed import picture

    weights = save_classifier(classed)
    predictor = ClassificationPredictor(overrides={"model": str(weights), "imgsz": 32, "letterbox": letterbox})
    predictor.setup_model()
    (image,) = predictor.pre_transform([picture("red", 0)])
    assert image.shape == (32, 32, 3) and (image[0] == 114).all() == letterbox
