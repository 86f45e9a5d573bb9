"""Values of settings: each type takes what it should and refuses the rest; texts are literals and nothing else."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from bitfalcon_plugin.config.default_table import table
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.config.values import literal
from tests.helpers.problems import problems


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("epochs", 3, 3),
        ("epochs", 1e2, 100),
        ("epochs", np.int64(7), 7),
        ("imgsz", 320.0, 320),
        ("imgsz", [320, 640], (320, 640)),
        ("imgsz", (640,), 640),
        ("batch", -1, -1),
        ("batch", 0.7, 0.7),
        ("batch", 8.0, 8),
        ("box", 8, 8.0),
        ("box", Fraction(1, 2), 0.5),
        ("lr0", 1, 1.0),
        ("lr0", np.float32(0.5), 0.5),
        ("workers", 0, 0),
        ("seed", 0, 0),
        ("patience", 0, 0),
        ("save_period", -1, -1),
        ("resume", "a.pt", "a.pt"),
        ("resume", True, True),
        ("optimizer", "adamw", "AdamW"),
        ("device", 0, 0),
        ("device", "0,1", "0,1"),
        ("device", [0, 1], (0, 1)),
        ("device", -1, -1),
        ("device", "", ""),
        ("classes", [0, 3], (0, 3)),
        ("classes", 0, 0),
        ("name", 7, "7"),
        ("project", Path("a/b"), str(Path("a/b"))),
        ("amp", "bf16", "bf16"),
        ("conf", None, None),
        ("freeze", 10, 10),
        ("freeze", [0, 2], (0, 2)),
        ("freeze", "23.cv2", ("23.cv2",)),
        ("freeze", "[23.cv2, 4]", ("23.cv2", 4)),
        ("freeze", ["backbone", 3, "7"], ("backbone", 3, 7)),
        ("freeze", "3,4", (3, 4)),
        ("cls_pw", 0.5, 0.5),
        ("compile", True, True),
        ("compile", "MAX-autotune", "max-autotune"),
        ("deterministic", False, False),
        ("cls_remap", False, False),
        ("sync_bn", True, True),
        ("checkpointing", True, True),
        ("data", Path("d.yaml"), "d.yaml"),
        ("shear", -5, -5.0),
        ("time", 0.1, 0.1),
        ("variant", "turbo", "turbo"),
    ],
)
def test_values_that_are_right(key: str, value: object, kept: object) -> None:
    result = getattr(load_settings({key: value}), key)
    assert result == kept and type(result) is type(kept)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", "many"),
        ("epochs", True),
        ("epochs", None),
        ("epochs", float("inf")),
        ("epochs", [1]),
        ("patience", -1),
        ("nbs", 0),
        ("max_det", 0),
        ("vid_stride", 0),
        ("seed", -1),
        ("workers", -1),
        ("lr0", 2),
        ("lr0", -0.1),
        ("lr0", float("nan")),
        ("lr0", "0.1"),
        ("iou", 1.01),
        ("mosaic", True),
        ("fraction", 0),
        ("save", "yes"),
        ("save", 1),
        ("save", None),
        ("batch", 0),
        ("batch", -2),
        ("batch", 1.5),
        ("batch", 0.0),
        ("batch", True),
        ("imgsz", 0),
        ("imgsz", [320, 320, 3]),
        ("imgsz", []),
        ("imgsz", [320, "x"]),
        ("imgsz", "320"),
        ("cache", "tape"),
        ("optimizer", "lion"),
        ("split", "all"),
        ("split", None),
        ("scale", 1.5),
        ("scale", True),
        ("scale", "0.5"),
        ("scale", None),
        ("data", 3),
        ("data", ["a.yaml"]),
        ("model", True),
        ("freeze", -1),
        ("freeze", []),
        ("freeze", ["23.cv2", -1]),
        ("freeze", 1.5),
        ("freeze", "2 3"),
        ("freeze", [["a"]]),
        ("freeze", [None]),
        ("freeze", [True]),
        ("freeze", ["1.5"]),
        ("freeze", "a,,b"),
        ("freeze", {"a": 1}),
        ("time", 0),
        ("sync_bn", 1),
        ("checkpointing", "yes"),
        ("degrees", 400),
        ("device", {}),
        ("device", -2),
        ("task", "depth"),
        ("mode", "deploy"),
        ("amp", "fp8"),
        ("cfg", 3),
        ("variant", "v2"),
        ("name", ["a"]),
        ("close_mosaic", -1),
        ("save_period", -2),
        ("warmup_epochs", -1),
        pytest.param("epochs", 10**400, id="epochs-huge"),
    ],
)
def test_values_that_are_wrong(key: str, value: object) -> None:
    text = problems(**{key: value})
    row = table()[key]
    assert f"- {key}=" in text and "expected " in text and f"for example {key}=" in text
    assert text.count("\n  - ") == 1
    assert "choices" not in row or not isinstance(value, str) or all(choice in text for choice in row["choices"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 0.001),
        ("-1", -1),
        ("True", True),
        ("fAlSe", False),
        ("NONE", None),
        ("[1, 2]", [1, 2]),
        ("1,2", (1, 2)),
        ("{'a': 1}", {"a": 1}),
        ("'1'", "1"),
        ("cpu", "cpu"),
        ("cuda:0", "cuda:0"),
        ("007", "007"),
        ("3or 4", "3or 4"),
        ("1+2j", "1+2j"),
        ("b'x'", "b'x'"),
        ("...", "..."),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("9**9", "9**9"),
        ("[" * 9 + "]" * 9, "[" * 9 + "]" * 9),
        ("[" * 400, "[" * 400),
        ("1" * 1001, "1" * 1001),
        ("a\0b", "a\0b"),
    ],
)
def test_literals_and_nothing_else(text: str, value: object, recwarn: pytest.WarningsRecorder) -> None:
    assert literal(text) == value and type(literal(text)) is type(value)
    assert not recwarn.list


def test_text_keys_keep_text() -> None:
    assert [literal(text, "name") for text in ("007", "'x'", "true", "None")] == ["007", "'x'", "true", None]
    assert [literal(text, "source") for text in ("2024", "'2024'", "none", "true")] == ["2024", "2024", None, "true"]
    assert literal("7", "epochs") == 7
