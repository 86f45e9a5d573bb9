"""Trainings on datasets and loaders of scripts: what the script's code gave is what the network saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitfalcon_plugin.dropin.data import build
from bitfalcon_plugin.dropin.data.dataset import YOLODataset
from bitfalcon_plugin.dropin.models.yolo import detect
from tests.helpers.coloured import place  # noqa: F401

SMALL = {
    "model": "small.yaml",
    "data": "data/data.yaml",
    "epochs": 2,
    "imgsz": 64,
    "batch": 4,
    "device": "cpu",
    "plots": False,
    "close_mosaic": 1,
}


def test_a_dataset_of_a_script_is_what_a_trainer_reads(place, monkeypatch):  # noqa: F811
    drawn = []

    class Weighted(YOLODataset):
        def __getitem__(self, index):
            if "train" not in self.prefix:
                return super().__getitem__(index)
            weights = np.array([float((label["cls"] == 1).any()) for label in self.labels])
            index = int(np.random.choice(len(self.labels), p=weights / weights.sum()))
            drawn.append((index, self.transforms[0][0].p))
            return super().__getitem__(index)

    monkeypatch.setattr(build, "YOLODataset", Weighted)
    trainer = detect.DetectionTrainer(overrides=SMALL)
    trainer.train()
    assert len(drawn) == 20 and {index % 3 for index, _ in drawn} == {1}  # the green ones
    assert [p for _, p in drawn] == [1.0] * 10 + [0.0] * 10  # mosaic is closed for the last epoch
    assert isinstance(trainer.train_loader.dataset, Weighted) and trainer.best.is_file()


@pytest.mark.parametrize("name", ["build_yolo_dataset", "build_dataloader"])
def test_a_function_of_a_script_in_the_module_of_the_task_is_called(place, monkeypatch, name):  # noqa: F811
    calls, own = [], getattr(build, name)

    def replacement(*args, **kwargs):
        calls.append(args)
        return own(*args, **kwargs)

    monkeypatch.setattr(detect, name, replacement)
    detect.DetectionTrainer(overrides={**SMALL, "epochs": 1}).train()
    assert len(calls) == 2  # for training and for validation


def test_batches_reach_the_network_as_the_loader_gave_them(place):  # noqa: F811
    seen = []

    class Trainer(detect.DetectionTrainer):
        def get_dataloader(self, dataset_path, batch_size=16, rank=0, mode="train"):
            dataset = self.build_dataset(dataset_path, "val", batch_size)
            return build.build_dataloader(dataset, batch_size, 0, shuffle=False)

        def preprocess_batch(self, batch):
            seen.append(batch)
            return super().preprocess_batch(batch)

    trainer = Trainer(overrides={**SMALL, "epochs": 1})
    trainer.train()
    training = [batch for batch in seen if "train" in batch["im_file"][0]]
    expected = list(trainer.train_loader)
    assert len(training) >= len(expected) == 3
    for batch, values in zip(training, expected):
        assert torch.equal(batch["img"], values["img"]) and torch.equal(batch["bboxes"], values["bboxes"])
