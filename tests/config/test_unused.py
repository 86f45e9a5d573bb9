"""Given settings without effect in a run are reported, and only those."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.config.unused import unused_settings


@pytest.mark.parametrize(
    "given, from_checkpoint, word",
    [
        ({"model_scale": "s"}, True, "scale=s"),
        ({"variant": "turbo"}, True, "variant=turbo"),
        ({"pretrained": "x.pt"}, True, "pretrained=x.pt"),
        ({"pretrained": True}, False, "pretrained=True"),
        ({"cls_remap": True}, False, "cls_remap"),
        ({"val": False, "patience": 5}, False, "patience=5"),
        ({"save": False, "save_period": 2}, False, "save_period=2"),
        ({"optimizer": "AdamW", "warmup_momentum": 0.5}, False, "warmup_momentum"),
        ({"warmup_epochs": 0, "warmup_floor": 9}, False, "warmup_floor=9"),
        ({"mosaic": 0.0, "copy_paste": 0.0, "close_mosaic": 3}, False, "close_mosaic=3"),
        ({"rect": True, "mixup": 0.5}, False, "mixup=0.5"),
        ({"copy_paste": 0.0, "copy_paste_mode": "mixup"}, False, "copy_paste_mode"),
        ({"split": "test"}, False, "split=test"),
        ({"half": True}, False, "half"),
        ({"save_json": True}, False, "save_json"),
    ],
)
def test_settings_without_effect_are_reported(given, from_checkpoint, word):
    lines = unused_settings(load_settings(given), from_checkpoint)
    assert len(lines) == 1 and lines[0].startswith(word) and "no effect" in lines[0]


@pytest.mark.parametrize(
    "given, from_checkpoint",
    [
        ({}, True),
        ({}, False),
        ({"model_scale": "s", "variant": "turbo", "pretrained": "x.pt", "cls_remap": False}, False),
        ({"pretrained": False, "cls_remap": True}, True),
        ({"patience": 5, "save_period": 2, "mixup": 0.5, "close_mosaic": 3}, False),
        ({"optimizer": "SGD", "warmup_momentum": 0.5, "warmup_floor": 9}, False),
        ({"rect": True, "mosaic": 0.0}, False),
    ],
)
def test_settings_with_effect_are_not_reported(given, from_checkpoint):
    assert unused_settings(load_settings(given), from_checkpoint) == []
