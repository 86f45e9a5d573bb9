"""Networks of YOLO.model given to trainers, validators and predictors of scripts."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.dropin.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from bitfalcon_plugin.tasks.script_model import ScriptModel
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import save_weights

RUN = {
    "model": "small.yaml",
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 5,
    "epochs": 1,
    "device": "cpu",
    "plots": False,
    "scale": "n",
}


class Counting(ScriptModel):
    """A network with a loss of its own, which is the usual one."""

    calls = 0

    def loss(self, batch, preds=None):
        self.calls += 1
        return super().loss(batch, preds)


def trained(network) -> DetectionTrainer:
    class Trainer(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):
            return network

    trainer = Trainer(overrides=RUN)
    trainer.train()
    return trainer


@pytest.fixture()
def weights(place):  # noqa: F811
    return save_weights(place, "x.pt")


def test_training_a_network_of_scripts_is_training_its_detector(weights):
    expected = trained(YOLO(weights)._network).model.state_dict()
    net, own = YOLO(weights).model, Counting(YOLO(weights)._network)
    state = trained(net).model.state_dict()
    assert all(map(torch.equal, state.values(), expected.values()))
    assert torch.equal(net.model[0].conv.weight, state["model.0.conv.weight"])  # its own layers were trained
    trainer = trained(own)
    assert own.calls == 2 and trainer.model is own
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_validators_and_predictors_take_it_and_run_its_hooks(weights):
    yolo, seen = YOLO(weights), []
    plain = {key: RUN[key] for key in ("data", "imgsz", "device", "plots")}
    expected = DetectionValidator(args=plain)(model=yolo._network)
    results = DetectionPredictor(overrides={"imgsz": 64, "device": "cpu", "save": False})
    boxes = [result.boxes.data for result in results("data/images/val", model=yolo._network)]
    yolo.model.model[-1].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0].shape))
    assert DetectionValidator(args=plain)(model=yolo.model) == pytest.approx(expected)
    again = DetectionPredictor(overrides={"imgsz": 64, "device": "cpu", "save": False})
    for result, before in zip(again("data/images/val", model=yolo.model), boxes, strict=True):
        torch.testing.assert_close(result.boxes.data, before, rtol=1e-4, atol=1e-2)
    assert len(seen) >= 5 and seen[0][1] == 7
