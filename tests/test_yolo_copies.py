"""Copies of YOLO objects: deepcopy, pickle, torch.save, other processes, and the files that come of it."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from tests.helpers.bright import bright, canvas
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import predict_boxes, same_boxes, same_state, save_weights


@pytest.fixture()
def yolo(place):  # noqa: F811
    return YOLO(save_weights(place, "x.pt", license="MIT", settings={"data": "d.yaml"}))


@pytest.mark.parametrize(
    "content",
    [
        lambda yolo: yolo,
        lambda yolo: yolo.model,
        lambda yolo: {"model": yolo.model, "epoch": 3, "optimizer": None},
        lambda yolo: {"ema": copy.deepcopy(yolo.model).train(), "model": None},
    ],
)
def test_a_file_of_torch_save_opens_again(yolo, content):
    torch.save(content(yolo), "saved.pt")
    again = YOLO("saved.pt")
    assert same_boxes(predict_boxes(again), predict_boxes(yolo)) and again.names == yolo.names
    assert again.checkpoint.license == "MIT" and again.overrides["data"] == "d.yaml"
    assert str(again.ckpt_path) == "saved.pt"


def test_a_pickle_keeps_weights_overrides_and_paths_but_no_callbacks(yolo, place):  # noqa: F811
    yolo.overrides["conf"], yolo.overrides["imgsz"] = 0.5, 64
    yolo.add_callback("on_predict_start", lambda predictor: None)  # no pickle takes a lambda
    with torch.no_grad():
        yolo.model.head.cv3[0][-1].bias.add_(1)
    yolo(canvas(48, 64), device="cpu")
    other = pickle.loads(pickle.dumps(yolo))
    assert other.predictor is None
    assert same_boxes(predict_boxes(other), predict_boxes(yolo)) and other.overrides == yolo.overrides
    assert (other.ckpt_path, other.source, other.task) == (yolo.ckpt_path, yolo.source, "detect")
    assert not other.callbacks
    graph = YOLO("small.yaml")
    copies = [pickle.loads(pickle.dumps(graph)) for _ in range(2)]
    assert same_state(*copies) and same_state(graph, copies[0])  # the weights, though they are random


def test_a_network_keeps_its_mode_and_precision(yolo):
    net = pickle.loads(pickle.dumps(copy.deepcopy(yolo.model).half().train()))
    assert net.training and next(net.parameters()).dtype == torch.float16 and net.args == yolo.overrides
    assert not pickle.loads(pickle.dumps(yolo.model)).training


def test_a_deep_copy_has_everything(yolo):
    seen = []
    yolo.add_callback("on_predict_end", seen.append)
    yolo.model.model[0].register_forward_hook(lambda module, inputs, output: seen.append(module))
    expected = predict_boxes(yolo)
    other = copy.deepcopy(yolo)
    seen.clear()
    assert same_boxes(predict_boxes(other), expected) and len(seen) == 5  # and the predictor
    assert other.model is not yolo.model and seen[0] is other.model.model[0] and other.callbacks["on_predict_end"]
    with torch.no_grad():
        other.model.head.cv3[0][-1].bias.add_(1)
    assert same_boxes(predict_boxes(yolo), expected) and not same_boxes(predict_boxes(other), expected)


def test_layers_of_a_script_are_pickled_too_but_are_no_checkpoint(yolo):
    yolo.model.model[1] = nn.Sequential(yolo.model.model[1], nn.Dropout()).eval()
    other = pickle.loads(pickle.dumps(yolo))
    assert same_boxes(predict_boxes(other), predict_boxes(yolo)) and isinstance(other.model.model[1][1], nn.Dropout)
    net = pickle.loads(pickle.dumps(yolo.model))
    assert torch.equal(net(torch.ones(1, 3, 64, 64))[0], yolo.model(torch.ones(1, 3, 64, 64))[0])
    torch.save(yolo, "changed.pt")
    with pytest.raises(UserError, match="changed.pt.* was not read"):
        YOLO("changed.pt")


def test_fused_weights_are_pickled_as_they_were(yolo):
    expected = predict_boxes(yolo)
    yolo.fuse()
    other = pickle.loads(pickle.dumps(yolo))
    assert not other.model.is_fused() and same_boxes(predict_boxes(other), expected)


def test_results_are_pickled(place):  # noqa: F811
    (result,) = bright(place)([canvas(48, 64, (1, 8, 8, 24, 24))])
    other = pickle.loads(pickle.dumps(result))
    assert torch.equal(other.boxes.data, result.boxes.data) and len(other) == 1 and other.names == result.names
    assert (other.orig_img == result.orig_img).all() and other.path == result.path and other.speed == result.speed


def _predict_here(yolo: YOLO, folder: str):
    return yolo.predict(f"{folder}/data/images/val", imgsz=64, device="cpu"), yolo


def test_other_processes_take_and_give_objects(yolo):
    """As federated learning and worker pools do."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        results, other = pool.submit(_predict_here, yolo, str(Path.cwd())).result(120)
    assert same_boxes([result.boxes.data for result in results], predict_boxes(yolo)) and same_state(other, yolo)
