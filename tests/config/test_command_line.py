"""The grammar of the command line: tokens become a verb and settings; mistakes are noted or reported together."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitfalcon_plugin.config.command_line import parse_tokens
from bitfalcon_plugin.config.errors import UserError


def read(line: str) -> tuple[str | None, dict[str, object]]:
    verb, overrides = parse_tokens(line.split())
    overrides.pop("mode", None)
    return verb, overrides


def problem(*tokens: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_tokens(tokens)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "verb", "overrides"),
    [
        ("task=train model=yolov12.yaml scale=l", "train", {"model": "yolov12.yaml", "model_scale": "l"}),
        ("detect train model=a.yaml", "train", {"task": "detect", "model": "a.yaml"}),
        ("task=detect mode=train", "train", {"task": "detect"}),
        ("mode=VAL", "val", {}),
        ("Train", "train", {}),
        ("train task=train mode=train", "train", {}),
        ("scale=l scale=0.5 train", "train", {"model_scale": "l", "scale": 0.5}),
        ("epochs = 3 lr0= 1e-3 seed =4", None, {"epochs": 3, "lr0": 0.001, "seed": 4}),
        ("imgsz=[320, 640] val", "val", {"imgsz": [320, 640]}),
        ("imgsz = [ 320 , 640 ] val", "val", {"imgsz": [320, 640]}),
        ("classes=[[1, 2], [3]]", None, {"classes": [[1, 2], [3]]}),
        ("device=0,1", None, {"device": (0, 1)}),
        ("--epochs=3, --save_txt", None, {"epochs": 3, "save_txt": True}),
        ("export half nms", "export", {"half": True, "nms": True}),
        ("predict save_txt hide_labels", "predict", {"save_txt": True, "hide_labels": True}),
        (
            "name=007 project=1e3 half=TRUE conf=none",
            None,
            {"name": "007", "project": "1e3", "half": True, "conf": None},
        ),
        ("source=a=b.jpg", None, {"source": "a=b.jpg"}),
        ("source=[a-c]*.jpg", None, {"source": "[a-c]*.jpg"}),
        ("source=odd[1.jpg", None, {"source": "odd[1.jpg"}),
        ("train --debug", "train", {"debug": True}),
        ("info yolov12.yaml scale=n", "info", {"model": "yolov12.yaml", "model_scale": "n"}),
        ("info x.pt", "info", {"model": "x.pt"}),
        ("doctor x.yaml", "doctor", {"data": "x.yaml"}),
        ("selftest device=cpu", "selftest", {"device": "cpu"}),
        ("cfg --markdown", "cfg", {}),
        ("train freeze=[23.cv2, 4]", "train", {"freeze": "[23.cv2,4]"}),
        ("train freeze=23.cv2", "train", {"freeze": "23.cv2"}),
        ("epochs=1 epochs=2", None, {"epochs": 2}),
        ("data=__import__('os').getcwd()", None, {"data": "__import__('os').getcwd()"}),
        ("train help", "help", {}),
        ("train epcohs=1 --help", "help", {}),
        ("-h val", "help", {}),
        ("-v", "version", {}),
        ("--version", "version", {}),
        ("copy-cfg", "copy-cfg", {}),
        ("cfg", "cfg", {}),
        ("cfg=a.yaml", None, {"cfg": "a.yaml"}),
        ("task=help", "help", {}),
        ("", None, {}),
    ],
)
def test_read(line: str, verb: str | None, overrides: dict[str, object]) -> None:
    assert read(line) == (verb, overrides)


def test_words_that_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "val").mkdir()
    notes: list[str] = []
    _, overrides = parse_tokens(["predict", "best.pt", "images"], notes)
    assert overrides == {"mode": "predict", "model": "best.pt", "source": "images"}
    assert notes == ["'best.pt' is read as model=best.pt.", "'images' is read as source=images."]
    assert parse_tokens(["val"])[0] == "val"  # a verb before a folder of its name
    assert "'other.pt' is no verb" in problem("predict", "model=best.pt", "other.pt")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["--epochs=3"], "settings need no dashes: epochs=3"),
        (["epochs=3,"], "the comma at its end is not needed"),
        (["epochs=3", "epochs=4"], "'epochs' is given twice; the last one, 4, holds."),
        (["scale=l", "scale=n"], "'model_scale' is given twice"),
    ],
)
def test_tolerated_mistakes_are_noted(tokens: list[str], expected: str) -> None:
    notes: list[str] = []
    parse_tokens(tokens, notes)
    assert len(notes) == 1 and expected in notes[0]


@pytest.mark.parametrize("line", ["--debug", "train epochs=3", "epochs=3 epochs=3", "scale=l scale=0.5"])
def test_ordinary_tokens_have_no_notes(line: str) -> None:
    notes: list[str] = []
    parse_tokens(line.split(), notes)
    assert notes == []


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["fly"], "'fly' is no verb (train, val, predict, info, convert, doctor, selftest, "),
        (["deploy"], "'deploy' is no verb, no setting and no file. Did you mean 'export'?"),
        (["train", "epochs", "10"], "'epochs 10': write epochs=10."),
        (["train", "dis"], "'dis' needs a value: write dis=6.0."),
        (["plost"], "Did you mean 'plots'?"),
        (["mode=fly"], "mode=fly: expected one of train, val, predict, info, convert, doctor, selftest"),
        (["task=trian"], "Did you mean 'train'?"),
        (["task=depth"], "this package knows detect, segment, classify"),
        (["depth"], "this package knows detect, segment, classify"),
        (["epochs"], "'epochs' needs a value: write epochs=100."),
        (["device"], "write device=cpu."),
        (["line_thickness"], "write line_thickness=2."),
        (["epochs="], "expected key=value"),
        (["=3"], "expected key=value"),
        (["epochs=", "seed=3"], "epochs=: expected key=value"),
        (["imgsz=[3,", "4"], "a '[' is never closed"),
        (["imgsz=[3", "epochs=4"], "imgsz=[3: a '[' is never closed"),
        (["train", "predict"], "'train' and 'predict'"),
        (["train", "mode=val"], "'train' and 'val'"),
        (["no_such.jpg"], "no setting and no file"),
    ],
)
def test_wrong_tokens(tokens: list[str], expected: str) -> None:
    text = problem(*tokens)
    assert expected in text and text.count("\n  - ") == 1


def test_wrong_tokens_and_wrong_settings_are_reported_together() -> None:
    text = problem("trian", "epcohs=1", "lr0=2", "imgsz=[1", "task=depth")
    assert text.count("\n  - ") == 5
