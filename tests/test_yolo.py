"""The YOLO object: what scripts of the wider interface use, and the errors where something is missing."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.callbacks import PREDICT
from bitfalcon_plugin.config.errors import UserError
from tests.helpers.bright import Bright, bright, canvas
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import predict_boxes, same_boxes, same_state, save_weights


def test_attributes_of_a_graph_and_of_a_checkpoint(place):
    graph = YOLO("small.yaml")
    assert (graph.task, graph.model_name, graph.cfg) == ("detect", "small.yaml", "small.yaml")
    assert graph.ckpt == {} and graph.ckpt_path is None
    assert graph.overrides == {"task": "detect", "model": "small.yaml"} and graph.names == {0: "0", 1: "1", 2: "2"}
    assert graph.trainer is graph.metrics is graph.predictor is graph.transforms is None
    assert graph.device == torch.device("cpu")
    settings = {"imgsz": 96, "data": "d.yaml", "lr0": 0.1}
    path = save_weights(place, "x.pt", epoch=6, license="MIT", settings=settings, metrics={"fitness": 0.5})
    yolo = YOLO(path, task="detect")
    assert (yolo.ckpt_path, yolo.cfg, yolo.model_name) == (str(path), None, str(path))
    assert yolo.overrides == {"task": "detect", "model": str(path), "imgsz": 96, "data": "d.yaml"}
    assert (yolo.ckpt["epoch"], yolo.ckpt["license"], yolo.ckpt["train_metrics"]) == (6, "MIT", {"fitness": 0.5})
    assert yolo.ckpt["model"] is yolo.model and yolo.ckpt["train_args"]["lr0"] == 0.1


def test_a_bare_name_is_the_checkpoint_of_that_name(place):
    save_weights(place, "small.pt")
    assert YOLO("small").ckpt_path == "small.pt" and YOLO("yolov12n").ckpt_path is None


def test_info_is_a_tuple_and_prints(place, capsys):
    yolo = YOLO("small.yaml")
    yolo.model.head.requires_grad_(False)
    capsys.readouterr()
    layers, parameters, gradients, gflops = info = yolo.info(verbose=False, imgsz=64)
    assert capsys.readouterr().out == "" and isinstance(info, tuple)
    assert parameters == sum(p.numel() for p in yolo.model.parameters())
    assert gradients == parameters - sum(p.numel() for p in yolo.model.head.parameters())
    assert layers == sum(1 for module in yolo.model.modules() if not list(module.children()))
    assert yolo.info(imgsz=128).gflops == pytest.approx(4 * gflops)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert yolo.info(True) and len(capsys.readouterr().out.splitlines()) == 1 + 6 + 1  # a head line, the rows, the sum


@pytest.mark.parametrize(
    "act",
    [
        lambda: YOLO("none.pt"),
        lambda: YOLO("none.yaml"),
        lambda: YOLO("small.yaml").train(data="none.yaml"),
        lambda: YOLO("small.yaml").predict("none.jpg"),
        lambda: YOLO("small.yaml").val(data="none.yaml"),
        lambda: YOLO("small.yaml").load("none.pt"),
        lambda: YOLO("small.yaml").predict("none", stream=True),
    ],
)
def test_a_missing_file_is_a_file_not_found_error(place, act):
    with pytest.raises(FileNotFoundError, match="none") as caught:
        act()
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: YOLO(3), "expected the path"),
        (lambda: YOLO(None), "expected the path"),
        (lambda: YOLO(" "), "expected the path"),
        (lambda: YOLO("best.onnx"), "'best.onnx' does not exist"),
        (lambda: YOLO("small.yaml", task="depth"), "task='depth'"),
        (lambda: YOLO("small.yaml").predict("data", predictor=3), "expected a predictor class"),
        (lambda: YOLO("small.yaml").train(dict), "expected a trainer class with the methods get_model, train"),
        (lambda: YOLO("small.yaml").val(dict), "expected a validator class"),
        (lambda: YOLO("small.yaml").predict("data", conf="high"), "conf"),
        (lambda: YOLO("small.yaml").predict("data", cnof=1), "conf"),
        (lambda: YOLO("small.yaml").predict(), "source"),
        (lambda: YOLO("small.yaml").predict(3.5), "float"),
        (lambda: YOLO("small.yaml").predict("data", model="y.pt"), r"make another: YOLO\('y.pt'\)"),
        (lambda: YOLO("small.yaml").load(3), "ends in .pt"),
        (lambda: YOLO("small.yaml").load({"a": 1}), "ends in .pt"),
        (lambda: YOLO("small.yaml").save("x.onnx"), "ends in .pt"),
        (lambda: YOLO("small.yaml").save(3), "ends in .pt"),
        (lambda: YOLO("small.yaml").to("tpu"), "tpu"),
        (lambda: YOLO("small.yaml").to([1]), "expected a device"),
        (lambda: YOLO("small.yaml").to(torch.int8), "floating"),
        (lambda: YOLO("small.yaml").export(format="onx"), "format=onx: there is no such format.*'onnx'"),
        (lambda: YOLO("small.yaml").benchmark(format="onx"), "onnx"),
    ],
)
def test_wrong_arguments_are_user_errors(place, act, words):
    with pytest.raises(UserError, match=words):
        act()


def test_unknown_attributes_are_the_networks(place):
    yolo = YOLO("small.yaml")
    assert yolo.stride.tolist() == [8, 16] and yolo.model.task == "detect"
    assert len(list(yolo.parameters())) == len(list(yolo.model.parameters()))
    with pytest.raises(AttributeError, match="predcit.*Did you mean 'predict'"):
        yolo.predcit  # noqa: B018
    assert not hasattr(yolo, "_repr_html_") and not hasattr(yolo, "nothing_of_the_kind")
    other = copy.deepcopy(yolo)
    assert other.model is not yolo.model and same_state(other, yolo)


def test_states_have_the_names_of_the_object_and_load_by_both(place):
    yolo, other = (YOLO(save_weights(place, f"{seed}.pt", seed=seed)) for seed in (0, 1))
    state, inner = yolo.state_dict(), yolo.model.state_dict()
    assert list(state) == [f"model.{name}" for name in inner] and next(iter(state)) == "model.model.0.conv.weight"
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in inner.items())
    before = predict_boxes(other)
    for given in (state, inner):
        other = YOLO(place / "1.pt")
        assert not other.load_state_dict(given).missing_keys
        assert same_boxes(predict_boxes(other), predict_boxes(yolo)) and not same_boxes(predict_boxes(other), before)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({"model.model.0.conv.weight": state["model.model.0.conv.weight"]})
    part = {"model.model.0.conv.weight": torch.zeros_like(state["model.model.0.conv.weight"])}
    assert other.load_state_dict(part, strict=False).missing_keys and not other.model.model[0].conv.weight.any()


def test_devices_and_types(place):
    yolo = YOLO(save_weights(place, "x.pt"))
    assert yolo.to("cpu") is yolo.cpu() is yolo.eval() is yolo.half() is yolo and yolo.overrides["device"] == "cpu"
    assert next(yolo.parameters()).dtype == torch.float16 and not yolo.model.training
    assert next(yolo.to(torch.device("cpu"), torch.float64).parameters()).dtype == torch.float64
    assert next(yolo.float().to(device="cpu").parameters()).dtype == torch.float32
    if not torch.cuda.is_available():
        for wrong in (lambda: yolo.cuda(), lambda: yolo.to("cuda:0"), lambda: yolo.to(0)):
            with pytest.raises(UserError, match="GPU|does not exist on this machine"):
                wrong()
        assert yolo.overrides["device"] == "cpu"


def test_overrides_hold_for_every_call_that_does_not_say_otherwise(place):
    yolo = YOLO(save_weights(place, "x.pt"))
    assert max(map(len, predict_boxes(yolo, conf=0.01))) > 2
    yolo.overrides["max_det"], yolo.overrides["conf"] = 2, 0.01
    assert max(map(len, predict_boxes(yolo))) == 2 < max(map(len, predict_boxes(yolo, max_det=9)))


def test_callbacks_of_predictions_and_validations(place):
    yolo, seen = bright(place), []
    for event in PREDICT:
        yolo.add_callback(event, lambda predictor, event=event: seen.append((event, predictor)))
    assert len(yolo.predict([canvas(48, 64)] * 3, batch=2)) == 3
    batch = ["on_predict_batch_start", "on_predict_postprocess_end", "on_predict_batch_end"]
    assert [event for event, _ in seen] == ["on_predict_start", *batch, *batch, "on_predict_end"]
    assert all(predictor is yolo.predictor for _, predictor in seen) and list(yolo.callbacks["on_predict_start"]) != []
    yolo.clear_callback("on_predict_end")
    yolo(canvas(48, 64))
    assert seen[-1][0] == "on_predict_batch_end"
    yolo.reset_callbacks()
    count = len(seen)
    yolo(canvas(48, 64))
    assert len(seen) == count
    other = YOLO(save_weights(place, "x.pt"))
    other.add_callback("on_val_end", lambda validator: seen.append(validator.metrics))
    assert other.val(data="data/data.yaml", imgsz=64, plots=False, verbose=False, device="cpu") is not None
    assert seen[-1] is other.metrics


def test_several_threads_predict_with_one_object(place):
    yolo = YOLO(save_weights(place, "x.pt"))
    expected, predictions = predict_boxes(yolo), {}

    def work(number: int) -> None:
        predictions[number] = [predict_boxes(yolo) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(predictions) == 4
    assert all(same_boxes(expected, boxes) for repeats in predictions.values() for boxes in repeats)


def test_embeddings_are_means_of_maps(place):
    yolo = YOLO(save_weights(place, "x.pt"))
    picture = torch.full((1, 3, 64, 64), 0.5)
    (vector,) = yolo.embed(picture, device="cpu")
    with torch.no_grad():
        x, maps = picture, []
        for row in yolo.model.model[:-1]:
            x = row(x)
            maps.append(x.mean((2, 3))[0])
    torch.testing.assert_close(vector, maps[4], atol=1e-4, rtol=1e-4)
    (both,) = yolo.embed(picture, stream=True, embed=[1, 4], device="cpu")
    torch.testing.assert_close(both, torch.cat((maps[1], maps[4])), atol=1e-4, rtol=1e-4)


def test_a_list_or_an_iterator_always(place):
    yolo = bright(place)
    assert isinstance(yolo(canvas(48, 64)), list) and isinstance(yolo.predict("data/images/val"), list)
    stream = yolo("data/images/val", stream=True)
    assert not isinstance(stream, list) and len(next(stream)) == 1 and len(list(stream)) == 3
    assert isinstance(yolo.model, Bright) and not Path("runs").exists()


@pytest.mark.parametrize(
    "given, plain",
    [
        ({"device": torch.device("cpu")}, {"device": "cpu"}),
        ({"classes": {0, 2}}, {"classes": [0, 2]}),
        ({"classes": range(2)}, {"classes": [0, 1]}),
        ({"imgsz": np.array([64, 96])}, {"imgsz": [64, 96]}),
        ({"classes": np.array([0])}, {"classes": [0]}),
        ({"classes": torch.tensor([0, 1])}, {"classes": [0, 1]}),
        ({"conf": torch.tensor(0.25)}, {"conf": 0.25}),
        ({"mode": "train"}, {"mode": "predict"}),
    ],
)
def test_settings_may_be_arrays_sets_and_devices(place, given, plain):
    yolo = YOLO(save_weights(place, "x.pt"))
    results, expected = (
        yolo.predict("data/images/val", **{"device": "cpu", "imgsz": 64, **keys}) for keys in (given, plain)
    )
    assert len(results) == 4 and all(torch.equal(a.boxes.data, b.boxes.data) for a, b in zip(results, expected))
    assert yolo.predictor.args.mode == "predict"


def test_missing_data_of_the_checkpoint_are_named(place):
    yolo = YOLO(save_weights(place, "x.pt", settings={"data": "gone.yaml"}))
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml.* trained on data=gone\.yaml; give data="):
        yolo.val(device="cpu")
    with pytest.raises(FileNotFoundError) as caught:
        yolo.val(data="gone.yaml", device="cpu")
    assert "trained on" not in str(caught.value)
