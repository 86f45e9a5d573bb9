"""Command lines as people type them: each does what it says, or ends with the sentence that repairs it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from bitfalcon_plugin import cli
from bitfalcon_plugin.config import command_line
from bitfalcon_plugin.config.help_text import HELP, verb_help
from bitfalcon_plugin.config.settings import Settings
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import save_weights

# line -> the verb, some of its settings, and a part of what it prints on stderr ("" where it prints nothing)
LINES = [
    ("task=train model=yolov12.yaml scale=l", "train", {"model": "yolov12.yaml", "model_scale": "l"}, ""),
    ("detect train data=coco.yaml model=yolov12n.yaml epochs=100 imgsz=640", "train", {"data": "coco.yaml"}, ""),
    ("task=detect mode=train model=yolov12n.pt data=data.yaml", "train", {"model": "yolov12n.pt"}, ""),
    ("task=segment", "train", {"task": "segment"}, "task=segment alone means train"),
    ("task=classify epochs=2", "train", {"task": "classify", "epochs": 2}, "task=classify alone means train"),
    ("--task=classify format=onnx", None, {}, "bitfalcon export --task=classify format=onnx"),
    ("train --model yolov12n.pt --data d.yaml --epochs 3 --imgsz 320", "train", {"epochs": 3, "imgsz": 320}, "no dash"),
    ("--task detect --mode train --model=best.pt --epochs 3", "train", {"model": "best.pt", "epochs": 3}, "no dash"),
    ("detect train model=a.pt data=a.yaml batch=-1 cache=ram", "train", {"batch": -1, "cache": "ram"}, ""),
    ("train model=a.yaml device=0,1 batch=32", "train", {"device": (0, 1), "batch": 32}, ""),
    ("train model=a.yaml device=[0,1]", "train", {"device": (0, 1)}, ""),
    ("train --weights a.pt --img 416 --batch-size 8 --data d.yaml", "train", {"model": "a.pt", "batch": 8}, "old name"),
    ("train model=a.pt --exist-ok --cos-lr --device cpu", "train", {"exist_ok": True, "cos_lr": True}, "no dash"),
    ("train resume model=runs/detect/train/weights/last.pt", "train", {"resume": True}, ""),
    ("train resume=True model=last.pt", "train", {"resume": True, "model": "last.pt"}, ""),
    ("train --resume last.pt", "train", {"resume": "last.pt"}, "no dash"),
    ("detect train model=a.yaml pretrained=yolov12n.pt lr0=1e-3", "train", {"pretrained": "yolov12n.pt"}, ""),
    ("train model=a.yaml cfg=yolov12-n", "train", {"mixup": 0.0}, "cfg=yolov12-n sets"),
    ("train model=a.yaml --cfg yolov12-n epochs=5", "train", {"epochs": 5}, "given beside it: epochs"),
    ("train model = a.pt data = d.yaml epochs = 3", "train", {"model": "a.pt", "epochs": 3}, ""),
    ("train, model=a.pt, epochs=3,", "train", {"model": "a.pt", "epochs": 3}, "comma"),
    ("train model=a.pt freeze=10 optimizer=adamw patience=50", "train", {"freeze": 10, "optimizer": "AdamW"}, ""),
    ("train model=a.pt name=exp project=runs/mine", "train", {"project": "runs/mine", "name": "exp"}, ""),
    ("model=yolov12.yaml", "train", {}, "no verb is given: model= alone means train"),
    ("detect model=yolov12n.yaml data=d.yaml epochs=3", "train", {"epochs": 3}, "no verb is given"),
    ("source=image.jpg model=best.pt", "predict", {"source": "image.jpg"}, "no verb is given: source= is for predict"),
    ("detect source=image.jpg", "predict", {"source": "image.jpg"}, "no verb is given"),
    ("--source 0 --weights best.pt --conf 0.4", "predict", {"source": "0", "conf": 0.4}, "no verb is given"),
    ("source=v.mp4 model=best.pt tracker=botsort.yaml", "track", {"tracker": "botsort.yaml"}, "source= is for track"),
    ("detect predict model=best.pt source=https://example.org/a.jpg", "predict", {"conf": None}, ""),
    ("predict model=best.pt source=rtsp://cam/1?a=b", "predict", {"source": "rtsp://cam/1?a=b"}, ""),
    ("predict --source rtsp://cam/1?a=b --model best.pt", "predict", {"source": "rtsp://cam/1?a=b"}, "no dash"),
    ("predict model=best.pt source=0 show", "predict", {"source": "0", "show": True}, ""),
    ("predict model=best.pt source=a.jpg classes=0,2 conf=.3", "predict", {"classes": (0, 2), "conf": 0.3}, ""),
    ("predict model=best.pt source=a.jpg --classes 0 2 5 --save-txt", "predict", {"classes": (0, 2, 5)}, "no dash"),
    ("predict model=best.pt source=a imgsz=[320, 640] save_txt=True save_conf", "predict", {"imgsz": (320, 640)}, ""),
    ("predict model=b.pt source=a hide_labels=True line_thickness=2", "predict", {"show_labels": False}, "old name"),
    ("predict model=best.pt source=a.jpg half=true", "predict", {"half": True}, ""),
    ("val model=best.pt data=coco.yaml batch=1 conf=0.25 iou=0.6", "val", {"iou": 0.6}, ""),
    ("mode=val model=best.pt split=test save_json=True plots", "val", {"split": "test", "plots": True}, ""),
    ("detect track model=best.pt source=v.mp4 show=False", "track", {"source": "v.mp4"}, ""),
    ("export model=best.pt format=onnx opset=12 simplify=True dynamic", "export", {"opset": 12, "dynamic": True}, ""),
    ("mode=export format=openvino model=best.pt int8 data=d.yaml", "export", {"format": "openvino", "int8": True}, ""),
    ("benchmark model=best.pt data=d.yaml imgsz=640 half=False device=cpu", "benchmark", {"device": "cpu"}, ""),
    ("yolo detect train model=a.pt data=a.yaml", "train", {"data": "a.yaml"}, ""),
    ("train yolov12n.pt data.yaml", "train", {"model": "yolov12n.pt", "data": "data.yaml"}, "read as data=data.yaml"),
    ("predict best.pt no_such.jpg", "predict", {"source": "no_such.jpg"}, "read as source=no_such.jpg"),
    ("train model=a.pt --no-plots --no-val", "train", {"plots": False, "val": False}, "plots=False val=False"),
    ("predict model=a.pt source=0 stream=True", "predict", {"source": "0"}, "stream=True has no effect"),
    ("tune model=a.pt data=d.yaml iterations=30 save=False", "tune", {"iterations": 30}, ""),
    ("tune model=a.pt space={'lr0':(1e-5,1e-1)}", "tune", {"space": {"lr0": (1e-5, 0.1)}}, ""),
    ("TRAIN MODEL=a.pt", None, {}, "Nearest: model="),
    ("epochs=3 data=d.yaml", None, {}, "bitfalcon train epochs=3 data=d.yaml"),
    ("model=best.pt format=onnx", None, {}, "bitfalcon export model=best.pt format=onnx"),
    ("model=best.pt split=test", None, {}, "bitfalcon val model=best.pt split=test"),
    ("resume=True", None, {}, "bitfalcon train resume=True"),
    ("detect test model=best.pt", None, {}, "Did you mean 'val split=test'?"),
    ("evaluate model=best.pt", None, {}, "Did you mean 'val'?"),
    ("inference model=best.pt source=a.jpg", None, {}, "Did you mean 'predict'?"),
    ("tracking model=best.pt source=v.mp4", None, {}, "Did you mean 'track'?"),
    ("mode=finetune model=best.pt", None, {}, "Did you mean 'train'?"),
    ("onnx model=best.pt", None, {}, "Did you mean 'export format=onnx'?"),
    ("setting", None, {}, "Did you mean 'settings'?"),
    ("hub login", None, {}, "There is no account and no service here."),
    ("train model=a.pt epochs 3", None, {}, "'epochs 3': write epochs=3."),
    ("train model=a.pt lr=0.01", None, {}, "Nearest: lr0=0.01."),
    ("train model=a.pt learning_rate=0.01", None, {}, "Nearest: lr0=0.01."),
    ("train model=a.pt gpu=0 num_workers=4", None, {}, "Nearest: workers=8."),
    ("predict model=a.pt source=a.jpg threshold=0.5", None, {}, "Nearest: conf=null."),
    ("train model=a.pt epcohs=3", None, {}, "Nearest: epochs=100"),
    ("train model=a.pt save=yes", None, {}, "save=yes: expected True or False"),
    ("train model=a.pt lr0=2", None, {}, "lr0=2: expected a number from 0 to 1"),
    ("predict model=best.pt source=", None, {}, "source=: expected key=value"),
]  # fmt: skip


@pytest.fixture()
def calls(monkeypatch) -> list[tuple[str, Settings]]:
    """What the verbs are called with; none of them runs."""
    calls: list[tuple[str, Settings]] = []

    def record(verb: str, settings: Settings) -> None:
        calls.append((verb, settings))

    for verb in command_line.MODES:
        monkeypatch.setitem(cli.VERBS, verb, functools.partial(record, verb))
    return calls


@pytest.mark.parametrize(("line", "verb", "some", "said"), LINES, ids=[line for line, *_ in LINES])
def test_lines(line: str, verb: str | None, some: dict[str, object], said: str, calls, capsys) -> None:
    code = cli.main(line.split())
    text = capsys.readouterr().err
    if verb is None:
        assert (code, calls) == (2, []) and said in text and text.startswith("error: ")
        return
    assert code == 0, text
    ((called, settings),) = calls
    assert (called, settings.mode) == (verb, verb)
    assert {key: getattr(settings, key) for key in some} == some
    assert said in text if said else text == ""


@pytest.mark.parametrize(
    "line, verb",
    [
        *((line, None) for line in ("detect", "segment", "task=detect", "", "--help", "detect -h")),
        ("train --help", "train"),
        ("help predict", "predict"),
        ("mode=val epochs=3 -h", "val"),
    ],
)
def test_lines_that_ask_for_help(line: str, verb: str | None, calls, capsys) -> None:
    assert cli.main(line.split()) == 0 and calls == []
    assert capsys.readouterr().out == (verb_help(verb) if verb else HELP)


RUN = [
    ("task=train model=small.yaml scale=n data=data/data.yaml epochs=1 device=cpu plots=False", "runs/detect/train"),
    (
        "--model small.yaml --data data/data.yaml --epochs 1 --batch-size 5 --name dashes --no-plots",
        "runs/detect/dashes",
    ),
    ("detect val x.pt data/data.yaml plots=False save_json", "runs/detect/val/predictions.json"),
    ("source=data/images/val model=x.pt save_txt", "runs/detect/predict/labels"),
    ("yolo detect predict x.pt data/images/val/0.png --save-txt", "runs/detect/predict2/labels"),
    ("model=small.yaml data=data/data.yaml epochs=1 pretrained=x.pt plots=False name=alone", "runs/detect/alone"),
    ("export x.pt --imgsz 64 format=torchscript", "x.torchscript"),
    ("info small.yaml", "small.yaml"),
]


def test_some_lines_really_run(place, capsys):
    """Each leaves what it says, with the imgsz and the workers of a test."""
    save_weights(place, "x.pt")
    for line, left in RUN:
        words = [*line.split(), *(["imgsz=64"] if "imgsz" not in line else []), "workers=0"]
        assert cli.main(words) == 0, f"{line}: {capsys.readouterr().err}"
        assert Path(left).exists(), line


def test_dashes_are_one_note(calls, capsys) -> None:
    assert cli.main("--task detect train --model=best.pt --epochs 3 --half".split()) == 0
    note = "note: settings need no dashes: task=detect model=best.pt epochs=3 half\n"
    assert capsys.readouterr().err == note


def test_the_verb_may_stand_in_the_file_of_settings(calls, tmp_path, capsys) -> None:
    (tmp_path / "args.yaml").write_text("mode: val\nmodel: best.pt\n")
    assert cli.main([f"cfg={tmp_path}/args.yaml"]) == 0 and calls[0][0] == "val"
    assert "mode=val, as cfg= says" in capsys.readouterr().err


def test_the_settings_of_the_user(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("BITFALCON_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def settings(line: str) -> dict:
        assert cli.main(line.split()) == 0
        return json.loads(capsys.readouterr().out)

    before = settings("settings")
    assert before["runs_dir"] == str(tmp_path / "runs") and list(tmp_path.iterdir()) == []
    changed = settings("settings runs_dir=mine tensorboard=false wandb=True")
    assert changed == {**before, "runs_dir": str(tmp_path / "mine"), "tensorboard": False, "wandb": True}
    assert settings("settings") == changed and settings("settings reset") == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("settings runs_dri=x", "Did you mean 'runs_dir'?"),
        ("settings tensorboard=maybe", "expected bool, as in tensorboard=True"),
        ("settings runs_dir", "expected key=value or reset"),
    ],
)
def test_wrong_settings_of_the_user(line, said, capsys) -> None:
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert said in err and out == ""
