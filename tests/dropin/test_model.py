"""The YOLO object under its wider name: a torch module, with the classes of each task."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin import YOLO
from bitfalcon_plugin.dropin.nn.tasks import DetectionModel
from bitfalcon_plugin.yolo import YOLO as Plain
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import predict_boxes, same_boxes, save_weights


@pytest.fixture()
def yolo(place):  # noqa: F811
    return YOLO(save_weights(place, "x.pt"))


def test_an_object_is_a_module_whose_part_is_the_network(yolo):
    assert isinstance(yolo, nn.Module) and isinstance(yolo, Plain) and yolo.training is False
    assert list(dict(yolo.named_children())) == ["model"] and yolo.eval() is yolo
    names = [name for name, _ in yolo.named_modules()]
    assert names[:3] == ["", "model", "model.model"] and "model.model.0.conv" in names
    inner = dict(yolo.model.named_parameters())
    assert {name: id(p) for name, p in yolo.named_parameters()} == {f"model.{n}": id(p) for n, p in inner.items()}
    assert list(yolo.state_dict()) == [f"model.{name}" for name in yolo.model.state_dict()]
    assert isinstance(yolo.model, DetectionModel) and yolo.model is yolo.model
    seen = []
    assert yolo.apply(lambda module: seen.append(module)) is yolo and seen[-1] is yolo
    yolo.requires_grad_(False)
    assert not any(p.requires_grad for p in yolo.model.parameters()) and yolo.double() is yolo
    assert next(yolo.parameters()).dtype == torch.float64 and yolo.float() is yolo
    yolo.zero_grad()


def test_an_object_inside_of_a_module(yolo):
    class Service(nn.Module):
        def __init__(self):
            super().__init__()
            self.detector, self.scale = yolo, nn.Linear(1, 1)

    service, expected = Service(), predict_boxes(yolo)
    state = service.state_dict()
    assert "detector.model.model.0.conv.weight" in state and "scale.weight" in state
    assert len(list(service.parameters())) == len(list(yolo.parameters())) + 2
    service.half()
    assert next(yolo.model.parameters()).dtype == torch.float16
    service.float().train()
    assert yolo.model.training and not yolo.training
    service.eval()
    assert not yolo.model.training
    assert not service.load_state_dict(state).missing_keys and same_boxes(predict_boxes(service.detector), expected)
    with torch.no_grad():
        state["detector.model.model.0.conv.weight"].zero_()
    service.load_state_dict(state)
    assert not same_boxes(predict_boxes(yolo), expected) and "YOLO(" in repr(service)


def test_copies_are_modules_too(yolo, tmp_path):
    expected = predict_boxes(yolo)
    torch.save(yolo, tmp_path / "whole.pt")
    torch.save(yolo.model, tmp_path / "net.pt")
    copies = [copy.deepcopy(yolo), pickle.loads(pickle.dumps(yolo)), YOLO(yolo)]
    for other in (*copies, *(YOLO(tmp_path / name) for name in ("whole.pt", "net.pt"))):
        assert isinstance(other, YOLO) and isinstance(other, nn.Module) and isinstance(other.model, DetectionModel)
        assert same_boxes(predict_boxes(other), expected) and len(list(other.parameters())) > 9
    net = torch.load(tmp_path / "net.pt", weights_only=False)
    assert type(net) is DetectionModel and torch.equal(net.model[0].conv.weight, yolo.model.model[0].conv.weight)


def test_a_network_that_a_script_puts_in(yolo, place):  # noqa: F811
    expected = predict_boxes(yolo)
    other = YOLO(save_weights(place, "y.pt", seed=1))
    net = copy.deepcopy(other.model)
    yolo.model = net
    assert yolo.model is net and same_boxes(predict_boxes(yolo), predict_boxes(other))
    assert not same_boxes(predict_boxes(yolo), expected)
    yolo.save("z.pt")
    assert same_boxes(predict_boxes(YOLO("z.pt")), predict_boxes(other))
    with pytest.raises(UserError, match="model = a Linear: expected a network of this package"):
        yolo.model = nn.Linear(1, 1)


def test_the_classes_of_a_task(yolo):
    classes = yolo.task_map["detect"]
    assert set(classes) == {"model", "trainer", "validator", "predictor"} and classes["model"] is DetectionModel
    assert [classes[kind].__name__ for kind in ("trainer", "validator", "predictor")] == [
        "DetectionTrainer",
        "DetectionValidator",
        "DetectionPredictor",
    ]
