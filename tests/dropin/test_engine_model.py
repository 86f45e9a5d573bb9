"""The YOLO object of scripts: its network is of the classes of nn.tasks."""

from __future__ import annotations

import copy
import pickle

from bitfalcon_plugin import YOLO as HouseYOLO
from bitfalcon_plugin.dropin.engine.model import YOLO
from bitfalcon_plugin.dropin.nn.tasks import DetectionModel
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.tiny_models import CONV, small_model


def test_the_network_has_the_class_of_its_task(tmp_path):
    network = small_model(CONV, CONV)
    save_checkpoint(tmp_path / "best.pt", Checkpoint(network.graph, network.state_dict()))
    model = YOLO(tmp_path / "best.pt")
    assert type(model.model) is DetectionModel and model.model is model.model and isinstance(model, HouseYOLO)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is YOLO and type(other.model) is DetectionModel
    model.save(tmp_path / "again.pt")
    assert isinstance(HouseYOLO(str(tmp_path / "again.pt")).model, DetectionModel)
