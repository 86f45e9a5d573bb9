"""Predictors that scripts construct and subclass: through the methods the boxes are those of our prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.dropin.models.yolo.detect import DetectionPredictor
from tests.dropin.test_trainer import DATA
from tests.helpers.bright import Bright, canvas
from tests.helpers.coloured import place  # noqa: F401  the fixture

ARGS = {"imgsz": 64, "device": "cpu", "save": False, "verbose": False}
IMAGES = [canvas(48, 64, (0, 8, 8, 40, 30)), canvas(100, 70, (1, 10, 30, 50, 60), (2, 52, 4, 66, 24))]


def boxes(results) -> list[list[list[float]]]:
    return [result.boxes.data.tolist() for result in results]


class Stepwise(DetectionPredictor):
    """Replaces a step by itself, so that every batch goes through the methods."""

    def inference(self, im, *args, **kwargs):
        return super().inference(im, *args, **kwargs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from tests.helpers.coloured import lay_out

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lay_out(folder)
        yolo = YOLO("small.yaml")
        yolo.train(epochs=1, **DATA)
        return folder / yolo.ckpt_path


def test_through_the_methods_the_boxes_are_the_same(place, trained):
    overrides = {**ARGS, "model": str(trained), "conf": 0.001}
    for source in (IMAGES[0], IMAGES, "data/images/val", torch.rand(2, 3, 64, 96)):
        expected = YOLO(trained).predict(source, **{key: overrides[key] for key in ("imgsz", "conf", "device")})
        ours, stepwise = DetectionPredictor(overrides=overrides), Stepwise(overrides=overrides)
        assert len(expected) and any(map(len, expected))
        assert boxes(ours(source)) == boxes(expected) == boxes(stepwise(source))
        assert [each.path for each in stepwise(source)] == [each.path for each in expected]


def test_a_stream_and_the_command(place, capsys):
    predictor = Stepwise(overrides={**ARGS, "verbose": True})
    predictor.setup_model(Bright())
    results = predictor("data/images/val", stream=True)
    assert not isinstance(results, list) and len(next(results).boxes) == 1
    results.close()
    assert "image 1/4" in capsys.readouterr().out
    assert predictor.predict_cli("data/images/val") is None and predictor.seen == 4


class Everything(DetectionPredictor):
    calls = ()

    def setup_source(self, source):
        super().setup_source(source)
        self.calls = (*self.calls, ("setup_source", self.dataset.mode))

    def pre_transform(self, im):
        images = super().pre_transform(im)
        self.calls = (*self.calls, ("pre_transform", images[0].shape))
        return images

    def preprocess(self, im):
        assert len(self.batch[0]) == len(im)
        images = super().preprocess(im)
        self.calls = (*self.calls, ("preprocess", tuple(images.shape)))
        return images.flip(1)  # red is blue now

    def postprocess(self, preds, img, orig_imgs, **kwargs):
        results = super().postprocess(preds, img, orig_imgs, **kwargs)
        for result in results:
            result.names = {0: "r", 1: "g", 2: "b"}
        return results

    def construct_result(self, pred, img, orig_img, img_path):
        self.calls = (*self.calls, ("construct_result", pred.shape[1], Path(img_path).name))
        return super().construct_result(pred, img, orig_img, img_path)

    def write_results(self, i, p, im, s):
        line = super().write_results(i, p, im, s)
        return f"{line} [{i}]"


def test_methods_that_are_replaced_act(place, capsys):
    predictor = Everything(overrides={**ARGS, "verbose": True, "save": True, "batch": 2})
    events = []
    for event in ("on_predict_start", "on_predict_batch_start", "on_predict_postprocess_end", "on_predict_end"):
        predictor.add_callback(event, lambda each, event=event: events.append((event, each is predictor, each.seen)))
    results = predictor(IMAGES[:1] * 2, model=Bright())
    assert [each.verbose() for each in results] == ["1 b, ", "1 b, "] and results[0].boxes.xyxy.tolist() == [
        [8, 8, 40, 30]
    ]
    names = [call[0] for call in predictor.calls]
    assert names == ["setup_source", "pre_transform", "preprocess", "construct_result", "construct_result"]
    assert predictor.calls[1:3] == (("pre_transform", (64, 64, 3)), ("preprocess", (2, 3, 64, 64)))
    out = capsys.readouterr().out
    assert "ms [0]" in out and "ms [1]" in out and predictor.save_dir.name == "predict"
    assert len(list(predictor.save_dir.glob("*.jpg"))) == 2
    started = [("on_predict_batch_start", True, 0), ("on_predict_postprocess_end", True, 0)]
    assert events == [("on_predict_start", True, 0), *started, ("on_predict_end", True, 2)]


def test_pictures_that_the_script_saves(place):
    class Saving(DetectionPredictor):
        def save_predicted_images(self, save_path, frame=0):
            Image.fromarray(self.plotted_img[..., ::-1]).save(Path("mine") / Path(save_path).name)

    Path("mine").mkdir()
    Saving(overrides={**ARGS, "save": True})("data/images/val/0.png", model=Bright())
    assert Path("mine/0.jpg").is_file()


def test_results_that_a_callback_puts_there(place):
    predictor = DetectionPredictor(overrides=ARGS)
    predictor.add_callback("on_predict_batch_end", lambda each: setattr(each, "results", ["mine"]))
    assert predictor(IMAGES[0], model=Bright()) == ["mine"]


def test_step_by_step_as_clients_call_them(place):
    """FiftyOne sets up model and source, then calls inference and postprocess itself (spec/dropin.md 14)."""
    predictor = DetectionPredictor(
        overrides={"conf": 0.25, "save": False, "mode": "predict", "imgsz": 64}, _callbacks={}
    )
    predictor.setup_model(model=Bright(), verbose=False)
    predictor.setup_source([np.zeros((10, 10))])
    assert predictor.dataset.bs == 1 or predictor.dataset
    predictor._lock = None
    predictor.batch = [["a.jpg", "b.jpg"]]
    originals = [canvas(64, 64, (0, 8, 8, 40, 30)), canvas(64, 64, (2, 8, 8, 40, 30))]
    images = predictor.preprocess(originals)
    results = predictor.postprocess(predictor.inference(images), images, originals)
    assert [result.boxes.cls.tolist() for result in results] == [[0], [2]]
    assert [result.path for result in results] == ["a.jpg", "b.jpg"]
    (first, _) = predictor.postprocess(predictor.inference(images), images, images)
    assert first.boxes.xyxy.tolist() == [[8, 8, 40, 30]] and (first.orig_img == originals[0]).all()
