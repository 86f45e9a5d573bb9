"""Losses and networks of a script's own, which its get_model gives to the trainer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.models.yolo.detect import DetectionTrainer
from bitfalcon_plugin.dropin.nn.tasks import DetectionModel
from bitfalcon_plugin.dropin.utils import loss as losses
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.tasks.script_model import ScriptModel
from tests.dropin.test_trainer import RUN, rows, run
from tests.helpers.coloured import place  # noqa: F401  the fixture

SGD = {"optimizer": "SGD", "lr0": 0.01, "momentum": 0.0, "weight_decay": 0.0, "warmup_epochs": 0, "nbs": 4, "epochs": 1}


class OfClass(DetectionTrainer):
    """Trains a network of another class."""

    network: type = ScriptModel

    def get_model(self, cfg=None, weights=None, verbose=True):
        model = super().get_model(cfg, weights, verbose)
        model.__class__ = self.network
        return model


class Nothing(ScriptModel):
    def loss(self, batch, preds=None):
        total, items = super().loss(batch, preds)
        return total * 0, torch.cat((items, torch.tensor([7.0])))


def test_the_loss_of_a_network_is_what_is_trained(place):
    class Mine(OfClass):
        network = Nothing

        def get_validator(self):
            self.loss_names = "box_loss", "cls_loss", "dfl_loss", "mine_loss"
            return super().get_validator()

    trainer = run(Mine, **SGD)
    (row,) = rows(trainer)
    assert row["train/mine_loss"] == row["val/mine_loss"] == "7" and float(row["train/box_loss"]) > 0
    start = DetectionTrainer(overrides={**RUN, **SGD})
    fresh = dict(start.get_model().named_parameters())
    trained = dict(trainer.model.named_parameters())
    assert all(value.equal(fresh[name]) for name, value in trained.items())
    assert type(trainer.model) is Nothing and type(trainer.ema.ema) is Nothing


class Same(losses.v8DetectionLoss):
    def __call__(self, preds, batch):
        total, items = super().__call__(preds, batch)
        return total, {"box": items[0], "cls": items[1], "dfl": items[2]}


class WithCriterion(ScriptModel):
    def init_criterion(self):
        return Same(self)


def check_same(trainer):
    plain = run(**SGD)
    state, expected = trainer.model.state_dict(), plain.model.state_dict()
    for name in expected:
        torch.testing.assert_close(state[name], expected[name])
    ours, others = rows(plain)[0], rows(trainer)[0]
    for name in ("box", "cls", "dfl"):
        for split in ("train", "val"):
            assert float(others[f"{split}/{name}"]) == pytest.approx(float(ours[f"{split}/{name}_loss"]), rel=1e-4)
    assert trainer.result.metrics.results_dict == pytest.approx(plain.result.metrics.results_dict, abs=1e-4)


def test_a_criterion_that_computes_ours_trains_the_same(place):
    class Mine(OfClass):
        network = WithCriterion

    check_same(run(Mine, **SGD))


def test_a_class_in_the_place_of_our_loss(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(losses, "v8DetectionLoss", Same)
        trainer = run(**SGD)
    check_same(trainer)


def test_a_criterion_that_a_callback_sets(place):
    trainer = DetectionTrainer(overrides={**RUN, **SGD})
    trainer.add_callback("on_train_start", lambda each: setattr(each.model, "criterion", Same(each.model)))
    trainer.train()
    check_same(trainer)


class Shifted(ScriptModel):
    """Has a layer beside the rows, which its forward uses."""

    def forward(self, x, **options):
        if isinstance(x, dict):
            return self.loss(x)
        return super().forward(x + self.shift.weight.view(1, 3, 1, 1), **options)


def test_a_network_with_a_layer_of_its_own(place, capsys):
    class Mine(OfClass):
        network = Shifted

        def get_model(self, cfg=None, weights=None, verbose=True):
            model = super().get_model(cfg, weights, verbose)
            model.shift = nn.Linear(3, 1, bias=False)
            nn.init.zeros_(model.shift.weight)
            return model

    trainer = run(Mine, **SGD)
    assert trainer.model.shift.weight.abs().sum() > 0 and trainer.ema.ema.shift.weight.abs().sum() > 0
    assert trainer.result.metrics.instances == 4 and trainer.best.is_file()
    assert "is not that of its graph" in capsys.readouterr().err


def test_a_layer_that_was_exchanged(place, capsys):
    class Mine(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):
            model = super().get_model(cfg, weights, verbose)
            model.model[0].act = nn.PReLU()
            return model

    trainer = run(Mine, **SGD)
    assert isinstance(trainer.model.model[0].act, nn.PReLU) and trainer.result.metrics.instances == 4
    assert "is not that of its graph" in capsys.readouterr().err


def test_a_network_gets_the_names_of_the_data(place):
    class Mine(DetectionTrainer):
        classes = 3

        def get_model(self, cfg=None, weights=None, verbose=True):
            return DetectionModel("small.yaml", nc=self.classes, verbose=False)

    trainer = run(Mine)
    names = {0: "red", 1: "green", 2: "blue"}
    assert trainer.model.names == names and dict(load_checkpoint(trainer.best).graph.names) == names
    Mine.classes = 2
    with pytest.raises(UserError, match="network for 2 classes; the data have 3 .red, green, blue.. Make it with nc="):
        run(Mine)


def test_another_module_is_refused(place):
    class Mine(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):
            return nn.Linear(3, 3)

    with pytest.raises(UserError, match="get_model gave a Linear; expected a DetectionModel"):
        run(Mine)
