"""Calls of YOLO as scripts write them: arguments without a meaning here, missing frames, and what is printed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import bitfalcon_plugin
from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from tests.helpers.bright import bright, canvas
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import save_weights

IMAGE = canvas(48, 64, (1, 8, 8, 24, 24))


@pytest.mark.parametrize("word", ["v8", "v5loader", "predict", "", 8])
def test_a_second_argument_that_is_no_task_is_noted(place, capsys, word):  # noqa: F811
    assert YOLO("small.yaml", word).task == YOLO("small.yaml", word).task == "detect"
    assert capsys.readouterr().err.count(f"note: task={word!r} is no task and has no effect") == 1


def test_the_head_decides_the_task(place, capsys):  # noqa: F811
    segments = YOLO("yolov12n-seg.yaml")
    assert segments.task == segments.overrides["task"] == segments.model.task == "segment"
    y, (maps, coefficients, prototypes) = segments.model.eval()(torch.rand(1, 3, 64, 64))
    assert y.shape == (1, 4 + 80 + 32, 84) and len(maps) == 3 and coefficients.shape == (1, 32, 84)
    assert prototypes.shape == (1, 32, 16, 16)
    batch = {"img": torch.rand(1, 3, 64, 64), "batch_idx": torch.zeros(2), "cls": torch.tensor([[1.0], [2.0]])}
    batch["bboxes"] = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.3, 0.3, 0.4, 0.4]])
    indices = torch.zeros(1, 16, 16, dtype=torch.uint8)
    indices[:, 4:12, 4:12], indices[:, 2:8, 2:8] = 1, 2
    total, items = segments.model({**batch, "masks": indices})
    segments.model.args["overlap_mask"] = False
    apart = segments.model({**batch, "masks": torch.stack([indices[0] == 1, indices[0] == 2])})
    assert len(items) == 4 and total.requires_grad and items[1] > 0 and torch.allclose(apart[1], items)
    segments.save("seg.pt")
    assert YOLO("seg.pt", "segment").task == "segment" and capsys.readouterr().err == ""
    assert YOLO("seg.pt", "detect").task == "segment"
    assert "note: task='detect' has no effect: by its head 'seg.pt' is a model for segment." in capsys.readouterr().err
    (result,) = YOLO("seg.pt").predict(IMAGE, task="detect", imgsz=64, save=True)
    assert result.save_dir == "runs/segment/predict"


def test_task_and_mode_in_a_call(place, capsys):  # noqa: F811
    yolo = bright(place)
    assert len(yolo(IMAGE, task="predict", mode="train")[0]) == len(yolo(IMAGE, task="detect", mode="predict")[0]) == 1
    assert capsys.readouterr().err.count("note: ") == 1
    with pytest.raises(UserError, match="task=depth"):
        yolo(IMAGE, task="depth")


@pytest.mark.parametrize("source", [None, [], (), [None]])
def test_no_image_gives_no_results_and_one_note(place, capsys, source):  # noqa: F811
    yolo = bright(place)
    for _ in range(2):
        assert yolo(source) == yolo.predict(source=source, verbose=False) == []
        stream = yolo(source, stream=True)
        assert not isinstance(stream, list) and list(stream) == []
    out, err = capsys.readouterr()
    assert out == "" and err.count("holds no image, as at the end of a video") == err.count("\n") == 1


def test_a_call_without_any_source_and_an_empty_folder_are_mistakes(place):  # noqa: F811
    (place / "empty").mkdir()
    with pytest.raises(UserError, match="predict needs source="):
        bright(place).predict()
    with pytest.raises(FileNotFoundError, match="No images in folder 'empty'.*jpg"):
        bright(place)("empty", stream=True)


def test_classes_that_the_model_does_not_have(place, capsys):  # noqa: F811
    yolo = bright(place)
    assert len(yolo(IMAGE, classes=[1, 7])[0]) == 1 and len(yolo(IMAGE, classes=79)[0]) == 0
    err = capsys.readouterr().err
    assert "note: classes=[7]: the model knows 0 to 2, others are never found." in err and "classes=[79]" in err


def test_lines_are_printed_unless_verbose_is_false(place, capsys):  # noqa: F811
    yolo = bright(place)
    capsys.readouterr()
    yolo("data/images/val/0.png")
    line, speed = capsys.readouterr().out.splitlines()
    number = r"\d+\.\dms"
    assert re.fullmatch(rf"image 1/1 {place}/data/images/val/0.png: 64x64 1 red, {number}", line)
    assert re.fullmatch(
        rf"Speed: {number} preprocess, {number} inference, {number} postprocess per image at shape \(1, 3, 64, 64\)",
        speed,
    )
    yolo(IMAGE)
    assert capsys.readouterr().out.startswith("0: 64x64 1 green, ")
    list(yolo([IMAGE, IMAGE], stream=True))
    assert [text[:9] for text in capsys.readouterr().out.splitlines()[:2]] == ["0: 64x64 ", "1: 64x64 "]
    yolo(IMAGE, verbose=False)
    yolo.overrides["verbose"] = False
    yolo(IMAGE)
    assert capsys.readouterr().out == ""
    yolo(IMAGE, verbose=True)
    assert capsys.readouterr().out


def test_rect_false_pads_to_squares(place, capsys):  # noqa: F811
    yolo = YOLO(save_weights(place, "x.pt"))
    shapes = [
        yolo(IMAGE, imgsz=64, device="cpu", **rect)[0].input_shape for rect in ({}, {"rect": True}, {"rect": False})
    ]
    assert shapes == [(48, 64), (48, 64), (64, 64)] and "rect" not in capsys.readouterr().err


def test_opening_prints_each_licence_once_and_nothing_else(place, capsys):  # noqa: F811
    paths = [save_weights(place, name, license=license) for name, license in (("a.pt", "L-1"), ("b.pt", "L-1"))]
    free = save_weights(place, "free.pt")
    capsys.readouterr()
    for path in (*paths, *paths, free):
        YOLO(path).load(path)
    out, err = capsys.readouterr()
    assert out == "" and err == f"note: {paths[0]}: licence of the weights it comes from: L-1\n"
    YOLO(paths[0], verbose=True)
    assert "L-1" in capsys.readouterr().out


def test_an_object_of_an_object_is_the_same(place):  # noqa: F811
    yolo = YOLO(save_weights(place, "x.pt"))
    other = YOLO(yolo)
    other.overrides["conf"] = 0.5
    other.add_callback("on_predict_start", print)
    assert isinstance(other, YOLO) and other.model is yolo.model and yolo.overrides["conf"] == 0.5
    assert yolo.callbacks["on_predict_start"] == [print] and other is not yolo


@pytest.mark.parametrize(
    "act, kinds",
    [
        (lambda yolo: yolo(IMAGE, cnof=1), (SyntaxError, ValueError, TypeError)),
        (lambda yolo: yolo(IMAGE, conf="high"), (TypeError,)),
        (lambda yolo: yolo(IMAGE, conf=2), (ValueError,)),
        (lambda yolo: yolo.train(epcohs=1), (SyntaxError,)),
        (lambda yolo: yolo.export(format="nope"), (ValueError,)),
        (lambda yolo: yolo.to("cuda:99"), (ValueError,)),
        (lambda yolo: yolo("lost.jpg"), (FileNotFoundError,)),
        (lambda yolo: YOLO("lost.pt"), (FileNotFoundError,)),
        (lambda yolo: YOLO("lost.yaml"), (FileNotFoundError,)),
    ],
)
def test_errors_are_also_those_that_scripts_catch(place, act, kinds):  # noqa: F811
    for kind in (UserError, *kinds):
        with pytest.raises(kind):
            act(bright(place))


@pytest.mark.parametrize(
    "word, advice",
    [
        ("detect", "'predict'"),
        ("evaluate", "'val'"),
        ("fit", "'train'"),
        ("trakc", "'track'"),
        ("tracking", "'track'"),
        ("class_names", "'names'"),
        ("set_classes", "not chosen by text here: train them"),
    ],
)
def test_a_missing_attribute_names_the_nearest_meaning(place, word, advice):  # noqa: F811
    with pytest.raises(AttributeError, match=advice):
        getattr(YOLO("small.yaml"), word)
    assert not hasattr(YOLO("small.yaml"), word)


def test_a_missing_name_of_the_package_says_where_it_is():
    with pytest.raises(AttributeError, match="from bitfalcon_plugin.dropin import settings"):
        bitfalcon_plugin.settings  # noqa: B018
    with pytest.raises(ImportError):
        from bitfalcon_plugin import checks  # noqa: F401


def test_arrays_of_a_loop_until_the_end_of_the_video(place):  # noqa: F811
    """What a loop does that does not test what OpenCV's read() returns."""
    yolo, frames, counts = bright(place), iter([IMAGE, np.ascontiguousarray(IMAGE[:, ::-1]), None]), []
    while True:
        results = yolo(next(frames), verbose=False)
        if not results:
            break
        counts.append(len(results[0].boxes))
    assert counts == [1, 1] and torch.is_tensor(yolo(IMAGE, verbose=False)[0].boxes.data)


def test_notes_of_a_loop_are_printed_once(place, capsys):  # noqa: F811
    model = YOLO("small.yaml")
    for _ in range(3):
        model.predict(IMAGE, imgsz=70, classes=[9], verbose=False)
    printed = capsys.readouterr().err
    assert printed.count("imgsz=70") == printed.count("classes=[9]") == 1
