"""Settings as a namespace, as scripts read and check them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.dropin import cfg
from bitfalcon_plugin.dropin.utils import SETTINGS


def test_defaults_are_those_of_the_house():
    args = cfg.get_cfg()
    defaults = load_settings({})
    assert (args.epochs, args.imgsz, args.conf, args.lr0) == (100, 640, None, 0.01)
    for key, value in dict(args).items():
        if key in defaults.as_dict():
            assert value == getattr(defaults, key), key
    assert cfg.DEFAULT_CFG.epochs == 100 and isinstance(args, type(cfg.DEFAULT_CFG))


def test_overrides_of_every_kind(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    file.write_text("epochs: 3\nimgsz: 320\n")
    assert cfg.get_cfg(overrides=file).epochs == cfg.get_cfg(overrides={"epochs": 3}).epochs == 3
    assert cfg.get_cfg(overrides=SimpleNamespace(imgsz=320)).imgsz == 320
    assert cfg.get_cfg(cfg.DEFAULT_CFG_PATH, {"model": "a.pt"}).model == "a.pt"
    assert dict(cfg.get_cfg(str(file))) == {"epochs": 3, "imgsz": 320}
    args = cfg.get_cfg(overrides={"hide_labels": True, "project": 7, "name": "model", "model": "best.pt"})
    assert args.show_labels is False and args.project == "7" and args.name == "best"
    assert "old name of 'show_labels'" in capsys.readouterr().err
    assert cfg.get_cfg(overrides={"save_dir": "runs/x"}).get("save_dir") in (None, "runs/x")
    assert cfg.cfg2dict({"a": 1}) == cfg.cfg2dict(SimpleNamespace(a=1)) == {"a": 1}


def test_wrong_settings():
    with pytest.raises(SyntaxError, match="epcohs.*epochs=100"):
        cfg.get_cfg(overrides={"epcohs": 1})
    for key, value in (("epochs", "many"), ("lr0", 2), ("cos_lr", "yes"), ("epochs", 0)):
        with pytest.raises(TypeError, match=key) as caught:
            cfg.get_cfg(overrides={key: value})
        assert isinstance(caught.value, UserError)
    with pytest.raises(ValueError, match="lr0"):
        cfg.check_cfg({"lr0": -1})
    cfg.check_cfg({"lr0": -1}, hard=False)
    with pytest.raises(SyntaxError, match="nothing"):
        cfg.check_dict_alignment({"a": 1}, {"nothing": 2})
    assert cfg.check_dict_alignment({"a": 1}, {"a": 2, "b": 3}, allowed_custom_keys=["b"]) == {"a": 2, "b": 3}


def test_words_are_literals():
    values = [
        cfg.smart_value(text) for text in ("none", "True", "1e-3", "[1, 2]", "(3,4)", "yolo.pt", "__import__('os')")
    ]
    assert values == [None, True, 1e-3, [1, 2], (3, 4), "yolo.pt", "__import__('os')"]
    assert cfg.parse_key_value_pair("imgsz = 320") == ("imgsz", 320)
    with pytest.raises(AssertionError, match="missing"):
        cfg.parse_key_value_pair("imgsz=")
    assert cfg.merge_equals_args(["a", "=", "1", "b=", "2", "c", "=3"]) == ["a=1", "b=2", "c=3"]


def test_the_folder_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = cfg.get_cfg(overrides={"project": str(tmp_path / "p"), "name": "n"})
    assert cfg.get_save_dir(args) == tmp_path / "p/n"
    (tmp_path / "p/n").mkdir(parents=True)
    assert cfg.get_save_dir(args) == tmp_path / "p/n2" and cfg.get_save_dir(args, "other") == tmp_path / "p/other"
    args.exist_ok = True
    assert cfg.get_save_dir(args) == tmp_path / "p/n"
    monkeypatch.setenv("BITFALCON_CONFIG", str(tmp_path))
    SETTINGS["runs_dir"] = str(tmp_path / "r")
    assert cfg.get_save_dir(cfg.get_cfg()) == tmp_path / "r/detect/train"
    assert str(cfg.get_save_dir(SimpleNamespace(save_dir="here"))) == "here"


def test_tables():
    assert cfg.TASKS == {"detect", "segment", "classify", "pose", "obb"} == set(cfg.TASK2DATA) == set(cfg.TASK2MODEL)
    assert {"train", "val", "predict", "export", "track", "benchmark"} == cfg.MODES
    assert cfg.TASK2METRIC["segment"] == "metrics/mAP50-95(M)" and cfg.SOLUTION_MAP["count"] == "ObjectCounter"
    assert "epochs" in cfg.CFG_INT_KEYS and "lr0" in cfg.CFG_FRACTION_KEYS | cfg.CFG_FLOAT_KEYS
    assert "cos_lr" in cfg.CFG_BOOL_KEYS


def test_command_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFALCON_CONFIG", str(tmp_path))
    assert cfg.entrypoint("yolo version") == 0
    assert capsys.readouterr().out.strip()
    cfg.handle_yolo_settings(["sync=False"])
    cfg.handle_yolo_settings(["reset"])
    assert "runs_dir" in capsys.readouterr().out
    cfg.copy_default_cfg()
    assert yaml.safe_load((tmp_path / "default_copy.yaml").read_text())["epochs"] == 100
