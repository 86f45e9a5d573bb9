"""Classes of a script given to YOLO.train, val and predict, and the trainer of YOLO under its wider name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.data import build
from bitfalcon_plugin.dropin.engine.model import YOLO as WiderYOLO
from bitfalcon_plugin.dropin.models.yolo import detect
from bitfalcon_plugin.dropin.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from bitfalcon_plugin.tasks.script_model import ScriptModel
from tests.dropin.test_trainer import DATA
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import save_weights

TRAIN = {key: value for key, value in DATA.items() if key != "scale"}


@pytest.fixture()
def weights(place):
    return save_weights(place, "x.pt")


class Noting(DetectionTrainer):
    def get_model(self, cfg=None, weights=None, verbose=True):
        self.given = cfg, weights
        return super().get_model(cfg, weights, verbose)


@pytest.mark.parametrize("wider", [False, True])
def test_train_by_a_class_is_train(weights, wider):
    plain, by_class = YOLO(weights), (WiderYOLO if wider else YOLO)(weights)
    expected = plain.train(epochs=1, **TRAIN).results_dict
    metrics = by_class.train(epochs=1, **TRAIN, **({} if wider else {"trainer": Noting}))
    assert metrics.results_dict == expected and isinstance(by_class.trainer, DetectionTrainer)
    assert by_class.ckpt_path == str(by_class.trainer.best) and by_class.names == plain.names
    if not wider:
        cfg, network = by_class.trainer.given
        assert cfg["nc"] == 3 and isinstance(network, ScriptModel)
    state, others = plain.model.state_dict(), by_class.model.state_dict()
    assert all(state[name].equal(others[name]) for name in state)
    trained = by_class.trainer.model.state_dict()
    assert all(tensor.equal(trained[name]) for name, tensor in plain.trainer.model.state_dict().items())
    assert len(by_class.predict("data/images/val", imgsz=64)) == 4 and copy.deepcopy(by_class).names == plain.names


def test_a_graph_is_built_by_the_trainer_with_its_scale(place):
    yolo = YOLO("small.yaml")
    yolo.train(trainer=Noting, epochs=1, **DATA)
    cfg, network = yolo.trainer.given
    assert cfg["scale"] == "n" and network is None and yolo.trainer.model.graph.scale == "n"


def test_callbacks_of_the_object_get_the_trainer(weights):
    yolo, seen = WiderYOLO(weights), []
    yolo.add_callback("on_train_epoch_end", lambda trainer: seen.append((trainer, trainer.train_loader)))
    yolo.add_callback("on_val_end", lambda validator: seen.append((validator, validator.seen, validator.nc)))
    yolo.train(epochs=1, **TRAIN)
    assert seen[0][0] is yolo.trainer and len(seen[0][1].dataset) == 10
    assert seen[1][0] is yolo.trainer.validator and seen[-1][1:] == (4, 3)
    del seen[:]
    yolo.val(plots=False, data="data/data.yaml")
    assert len(seen) == 1 and isinstance(seen[0][0], DetectionValidator) and seen[0][1:] == (4, 3)


def test_val_and_predict_by_a_class(weights):
    class Few(DetectionValidator):
        def get_stats(self):
            return {**super().get_stats(), "mine": 1}

    class Renamed(DetectionPredictor):
        def postprocess(self, preds, img, orig_imgs, **kwargs):
            results = super().postprocess(preds, img, orig_imgs, **kwargs)
            for result in results:
                result.path = "mine"
            return results

    yolo, settings = YOLO(weights), {"imgsz": 64, "device": "cpu"}
    expected = yolo.val(data="data/data.yaml", plots=False, **settings)
    metrics = yolo.val(validator=Few, data="data/data.yaml", plots=False, **settings)
    assert metrics.results_dict == pytest.approx(expected.results_dict, abs=1e-6) and yolo.metrics is metrics
    plain = yolo.predict("data/images/val", conf=0.01, **settings)
    results = yolo.predict("data/images/val", predictor=Renamed, conf=0.01, **settings)
    assert [each.path for each in results] == ["mine"] * 4 and isinstance(yolo.predictor, Renamed)
    for ours, theirs in zip(plain, results, strict=True):
        assert ours.boxes.data.equal(theirs.boxes.data) and len(ours)


def test_a_network_that_its_file_does_not_say_goes_on(weights):
    class Wider(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):
            model = super().get_model(cfg, weights, verbose)
            model.model[0].act = nn.PReLU()
            return model

    yolo = YOLO(weights)
    metrics = yolo.train(trainer=Wider, epochs=1, **TRAIN)
    assert isinstance(yolo.model.model[0].act, nn.PReLU) and len(yolo.predict("data/images/val", imgsz=64)) == 4
    again = yolo.val(data="data/data.yaml", plots=False, imgsz=64, device="cpu")
    assert again.results_dict == pytest.approx(metrics.results_dict, abs=1e-4)


def test_a_dataset_class_in_the_place_of_ours_is_trained_on(weights, monkeypatch):
    """As a public script does it: data.build.YOLODataset is replaced, and YOLO.train is called."""
    drawn = []

    class Weighted(build.YOLODataset):
        def __getitem__(self, index):
            if "train" in self.prefix:
                drawn.append(index)
                index = 0
            return super().__getitem__(index)

    monkeypatch.setattr(build, "YOLODataset", Weighted)
    yolo = WiderYOLO(weights)
    yolo.train(epochs=1, workers=0, **TRAIN)
    assert sorted(drawn) == list(range(10)) and isinstance(yolo.trainer.train_loader.dataset, Weighted)
    assert yolo.metrics.images == 4


def test_functions_beside_the_trainer_may_be_replaced(weights, monkeypatch):
    made = []

    def build_yolo_dataset(cfg, img_path, batch, data, **options):
        made.append(options["mode"])
        return build.build_yolo_dataset(cfg, img_path, batch, data, **options)

    monkeypatch.setattr(detect, "build_yolo_dataset", build_yolo_dataset)
    DetectionTrainer(overrides={"model": str(weights), "epochs": 1, "workers": 0, **TRAIN}).train()
    assert made == ["train", "val"]


def test_the_map_of_tasks():
    kinds = WiderYOLO("yolov12n.yaml").task_map["detect"]
    assert kinds["trainer"] is DetectionTrainer and kinds["predictor"] is DetectionPredictor
    assert isinstance(WiderYOLO("yolov12n.yaml").model, kinds["model"])


def test_something_else_is_refused(weights):
    with pytest.raises(UserError, match="val\\(validator=3\\): expected a validator class"):
        YOLO(weights).val(validator=3)
    with pytest.raises(UserError, match="predict.*setup_model"):
        YOLO(weights).predict("data/images/val", predictor=dict)


def test_a_base_dataset_may_be_built_on(weights):
    class Less(DetectionTrainer):
        def build_dataset(self, img_path, mode="train", batch=None):
            dataset = super().build_dataset(img_path, mode, batch)
            return torch.utils.data.Subset(dataset, range(4)) if mode == "val_" else dataset

        def get_dataloader(self, dataset_path, batch_size=16, rank=0, mode="train"):
            loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
            self.sizes = (*getattr(self, "sizes", ()), len(loader.dataset))
            return loader

    trainer = Less(overrides={"model": str(weights), "epochs": 1, "workers": 0, **TRAIN})
    trainer.train()
    assert trainer.sizes == (10, 4) and trainer.result.metrics.instances == 4
