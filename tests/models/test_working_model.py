"""The weights of a YOLO object between its calls: loaded, changed by a script, trained, saved, reset."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import QUICK_TRAINING, predict_boxes, same_boxes, same_state, save_weights


def record_start(yolo: YOLO, row: int) -> list[torch.Tensor]:
    """A list that gets the convolution weights of a row of the graph when training starts."""
    weights = []
    yolo.add_callback("on_train_start", lambda run: weights.append(run.model.model[row].conv.weight.detach().clone()))
    return weights


def test_a_second_call_uses_the_prepared_model_until_the_weights_change(place):
    yolo, used = YOLO(save_weights(place, "x.pt")), []

    def call(**settings):
        detections = predict_boxes(yolo, **settings)
        used.append(yolo.predictor.model)
        return detections

    first = call()
    assert same_boxes(call(conf=0.1, batch=4), predict_boxes(yolo, conf=0.1)) and used[0] is used[1]
    with torch.no_grad():
        yolo.model.head.cv3[0][-1].bias.add_(1)
    assert not same_boxes(first, call()) and used[2] is not used[1]
    yolo.half()
    call()
    assert next(used[3].parameters()).dtype == torch.float16
    yolo.float().load(place / "x.pt")
    assert same_boxes(first, call()) and used[4] is not used[3]
    yolo.reset_weights()
    call(conf=0.001)
    assert used[5] is not used[4] and used[5].names is not yolo.model.names
    yolo.model.names = {0: "a", 1: "b", 2: "c"}
    assert yolo("data/images/val", imgsz=64)[0].names[1] == "b"


def test_changes_of_weights_are_noticed_however_they_are_made(place):
    yolo = YOLO(save_weights(place, "x.pt"))
    before = predict_boxes(yolo)  # prepares a copy before the script has the network
    bias, weight = yolo.model.head.cv3[0][-1].bias, yolo.model.model[1].conv.weight
    bias.data += 1
    assert not same_boxes(before, predict_boxes(yolo))
    bias.data -= 1
    assert same_boxes(before, predict_boxes(yolo))
    used = yolo.predictor.model
    predict_boxes(yolo)
    assert yolo.predictor.model is used
    for change in (
        lambda: bias.data[0].add_(1),  # one number
        lambda: setattr(bias, "data", bias.data * 2),  # another tensor in its place
        lambda: setattr(weight, "data", weight.data.flip(0)),  # the same numbers in another order
        lambda: weight.data.neg_(),
        lambda: yolo.model.model[1].bn.running_mean.data.add_(1),
        lambda: yolo.state_dict()["model.model.1.conv.weight"].zero_(),
    ):
        change()
        predict_boxes(yolo)
        assert yolo.predictor.model is not used
        used = yolo.predictor.model


def test_predictions_after_training_are_those_of_the_best_weights(place):
    yolo = YOLO(save_weights(place, "x.pt"))
    before = predict_boxes(yolo, conf=0.0001)
    metrics = yolo.train(**QUICK_TRAINING)
    assert metrics is yolo.metrics and yolo.overrides == {
        "task": "detect",
        "model": yolo.ckpt_path,
        "imgsz": 64,
        "data": str((place / "data/data.yaml").resolve()),
        "single_cls": False,
    }
    after = predict_boxes(yolo, conf=0.0001)
    assert not same_boxes(before, after) and same_boxes(after, predict_boxes(YOLO(yolo.trainer.best), conf=0.0001))
    assert yolo.val(plots=False, verbose=False, device="cpu").box.map == pytest.approx(metrics.box.map, abs=1e-6)


def test_training_starts_from_the_weights_as_they_are(place):
    yolo = YOLO(save_weights(place, "x.pt"))
    with torch.no_grad():
        yolo.model.model[0].conv.weight.fill_(0.125)
    yolo.half().float()
    start = record_start(yolo, 0)
    yolo.train(**{**QUICK_TRAINING, "warmup_epochs": 0})
    assert torch.equal(start[0], torch.full_like(start[0], 0.125))


@pytest.mark.parametrize("model", ["x.pt", "small.yaml"])
def test_saved_weights_are_the_same_model(place, model, monkeypatch):
    path = save_weights(place, "x.pt", license="AGPL-3.0")
    yolo = YOLO(path) if model == "x.pt" else YOLO(model).load(path)
    before = predict_boxes(yolo)
    yolo.model.names = {0: "red", 1: "green", 2: "blue"}
    assert yolo.save("deep/y.pt") is None and [p.name for p in Path("deep").iterdir()] == ["y.pt"]
    again = YOLO("deep/y.pt")
    assert (
        same_boxes(before, predict_boxes(again)) and again.names[2] == "blue" and again.checkpoint.license == "AGPL-3.0"
    )
    assert torch.load("deep/y.pt")["training"] is None  # with its defaults
    assert yolo.fuse() is yolo and yolo.info(verbose=False).layers < again.info(verbose=False).layers
    yolo.save()
    assert same_boxes(before, predict_boxes(YOLO("saved_model.pt"))) and same_boxes(before, predict_boxes(yolo))


def test_load_gives_a_graph_its_weights_and_training_begins_with_them(place, capsys):
    path = save_weights(place, "x.pt")
    yolo = YOLO("small.yaml")
    assert yolo.load(path) is yolo and same_boxes(predict_boxes(yolo), predict_boxes(YOLO(path)))
    start = record_start(yolo, 0)
    yolo.train(**QUICK_TRAINING)
    assert torch.equal(start[0], YOLO(path).model.model[0].conv.weight)
    assert "random" not in capsys.readouterr().err


def test_load_replaces_the_weights_of_a_checkpoint_and_gathers_licences(place):
    yolo = YOLO(save_weights(place, "x.pt", license="MIT"))
    other = save_weights(place, "y.pt", seed=1, license="AGPL-3.0")
    assert not same_state(yolo, YOLO(other))
    yolo.load(other)
    assert same_state(yolo, YOLO(other)) and yolo.checkpoint.license == "MIT; AGPL-3.0" and yolo.ckpt_path == str(other)
    (place / "small.yaml").write_text((place / "small.yaml").read_text().replace("[64, 3, 2]", "[96, 3, 2]"))
    wide = save_weights(place, "wide.pt")
    with pytest.raises(UserError, match="do not fit"):
        yolo.load(wide, strict=True)
    assert same_state(yolo, YOLO(other))


def test_folded_weights_are_replaced_too(place):
    yolo, path = YOLO(save_weights(place, "x.pt")), save_weights(place, "y.pt", seed=1)
    yolo.fuse()
    yolo.load(path)
    assert same_boxes(predict_boxes(yolo), predict_boxes(YOLO(path)))
    with pytest.raises(UserError, match=r"^load\(a ScriptModel\): expected a path that ends in"):
        yolo.load(yolo.model)


def test_reset_weights_are_fresh_and_have_no_licence(place):
    yolo = YOLO(save_weights(place, "x.pt", license="MIT"))
    old = yolo.model.model[1].conv.weight.detach().clone()
    assert yolo.reset_weights() is yolo and yolo.checkpoint.license is None
    fresh = yolo.model.model[1].conv.weight.detach().clone()
    assert not torch.equal(old, fresh) and yolo.model.names == YOLO(place / "x.pt").names
    start = record_start(yolo, 1)
    yolo.train(**QUICK_TRAINING)
    assert torch.equal(start[0], fresh)


def test_random_weights_are_noted(place, capsys):
    yolo = YOLO("small.yaml")
    predict_boxes(yolo)
    assert "small.yaml is a graph, its weights are random" in capsys.readouterr().err
    yolo.model.load_state_dict(YOLO(save_weights(place, "x.pt")).model.state_dict())
    predict_boxes(yolo)
    assert "random" not in capsys.readouterr().err


def test_predictions_in_inference_mode_leave_a_model_that_can_be_trained(place):
    yolo = YOLO(save_weights(place, "x.pt"))
    with torch.inference_mode():
        detections = predict_boxes(yolo)
    assert same_boxes(detections, predict_boxes(yolo))
    yolo.model.model[0](torch.zeros(1, 3, 8, 8)).sum().backward()
    assert yolo.model.model[0].conv.weight.grad is not None
