"""Trainers whose batches come from a script: a dataset, a loader, and batches changed on their way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.models.yolo.detect import DetectionTrainer
from tests.dropin.test_trainer import RUN, rows, run
from tests.helpers.coloured import place  # noqa: F401  the fixture


class Squares(Dataset):
    """Grey images with one red square each, made without any file."""

    def __init__(self, count: int):
        self.count, self.closed = count, False

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.full((3, 64, 64), 114, dtype=torch.uint8)
        image[:, 8:40, 16:48] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
        boxes = torch.tensor([[0.5, 0.375, 0.5, 0.5]])
        return {"img": image, "cls": torch.zeros(1, 1), "bboxes": boxes, "im_file": f"{index}.png"}

    def close_mosaic(self, hyp):
        self.closed = hyp.imgsz == 64

    @staticmethod
    def collate_fn(items):
        return {
            "img": torch.stack([item["img"] for item in items]),
            "cls": torch.cat([item["cls"] for item in items]),
            "bboxes": torch.cat([item["bboxes"] for item in items]),
            "batch_idx": torch.cat([torch.full((len(item["cls"]),), index) for index, item in enumerate(items)]),
            "im_file": [item["im_file"] for item in items],
            "ori_shape": [(64, 64)] * len(items),
        }


class OfSquares(DetectionTrainer):
    asked = ()

    def get_dataset(self):
        return {"train": "nowhere", "val": "nowhere either", "nc": 2, "names": {0: "square", 1: "other"}}

    def get_dataloader(self, dataset_path, batch_size=16, rank=0, mode="train"):
        self.asked = (*self.asked, (dataset_path, batch_size, mode))
        dataset = Squares(8 if mode == "train" else 3)
        return DataLoader(dataset, batch_size=batch_size, collate_fn=Squares.collate_fn)


def test_a_loader_of_the_script_gives_all_batches(place, capsys):
    trainer = run(OfSquares, model="small.yaml", epochs=2, close_mosaic=1, plots=True)
    assert trainer.asked == (("nowhere", 4, "train"), ("nowhere either", 8, "val"))
    assert len(trainer.train_loader) == 2 and trainer.train_loader.dataset.closed
    assert trainer.model.names == {0: "square", 1: "other"} and trainer.validator.seen == 3
    assert trainer.result.metrics.instances == 3 and trainer.metrics["metrics/recall(B)"] >= 0
    assert (trainer.save_dir / "train_batch0.jpg").is_file() and (trainer.save_dir / "val_batch0_labels.jpg").is_file()
    losses = [float(row["train/box_loss"]) for row in rows(trainer)]
    assert len(losses) == 2 and all(np.isfinite(losses)) and float(rows(trainer)[0]["val/cls_loss"]) > 0
    assert "boxes 8" in capsys.readouterr().out


def test_it_learns_from_these_batches(place):
    options = {"epochs": 10, "batch": 4, "optimizer": "SGD", "lr0": 0.02, "warmup_epochs": 0, "nbs": 4, "val": False}
    losses = [float(row["train/box_loss"]) for row in rows(run(OfSquares, **options))]
    assert losses[-1] < losses[0] / 3


def test_a_batch_without_a_key_says_which(place):
    class Poor(OfSquares):
        def preprocess_batch(self, batch):
            return {key: value for key, value in super().preprocess_batch(batch).items() if key != "bboxes"}

    with pytest.raises(UserError, match="without bboxes; expected a dict with img, cls, bboxes, batch_idx"):
        run(Poor)


def test_labels_changed_on_their_way_are_the_labels(place):
    class Moved(DetectionTrainer):
        def preprocess_batch(self, batch):
            batch = super().preprocess_batch(batch)
            keep = batch["batch_idx"] == 0
            return {**batch, **{key: batch[key][keep] for key in ("cls", "bboxes", "batch_idx")}}

    trainer = DetectionTrainer(overrides=RUN)
    counts = []
    for each in (trainer, Moved(overrides=RUN)):
        each.add_callback("on_train_epoch_end", lambda own: counts.append(own._running.boxes))
        each.train()
    assert counts[1] <= 3 < counts[0]
