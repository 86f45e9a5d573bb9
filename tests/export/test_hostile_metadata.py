"""What exported files of others say about themselves: numbers beyond all measure, and names that give orders."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export.metadata import read_metadata

GOOD = {"names": "{0: 'a'}", "stride": "32", "imgsz": "[64, 64]", "task": "detect", "batch": "2"}
DIGITS = "9" * 5000


@pytest.mark.parametrize(
    "key, value",
    [
        ("imgsz", "[40000, 40000]"),
        ("imgsz", [10**400, 64]),
        ("imgsz", f"[{DIGITS}, 64]"),
        ("imgsz", "[nan, 64]"),
        ("imgsz", "[64, 64, 64]"),
        ("batch", "100000000"),
        ("stride", DIGITS),
        ("stride", 10**5000),
        ("stride", "1e999"),
        ("stride", [float("nan")]),
        ("stride", "[[32]]"),
        ("names", {10**5000: "a"}),
        ("names", {"x": 1}),
        ("names", [[]] * 0),
        ("task", "\x1b[2J"),
        ("task", DIGITS),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, (int, dict, list)) else type(value).__name__,
)
def test_values_that_cannot_be_meant_are_refused(key, value):
    with pytest.raises(UserError, match="x.onnx") as caught:
        read_metadata({**GOOD, key: value}, "x.onnx")
    assert len(str(caught.value)) < 1000 and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("key", ["batch", "multiple", "args", "kpt_shape", "license", "description"])
def test_values_that_may_be_missing_are_passed_over(key):
    for value in (
        DIGITS,
        10**300 if key in ("license", "description") else 10**5000,
        "[" * 900,
        b"\xff",
        object(),
        [[]],
        {},
        float("nan"),
        "\0",
    ):
        metadata = read_metadata({**GOOD, key: value}, "x.onnx")
        assert metadata.multiple == 32 and metadata.imgsz == (64, 64)
        assert metadata.batch in (1, 2)


def test_keypoints_without_measure():
    for shape in ("[1000000000, 3]", f"[{DIGITS}, 3]", [10**5000, 3], "[nan, 3]"):
        with pytest.raises(UserError, match="kpt_shape"):
            read_metadata({**GOOD, "task": "pose", "kpt_shape": shape}, "x.onnx")


def test_what_fits_is_read():
    metadata = read_metadata({**GOOD, "batch": 64.0, "imgsz": [2048, 2048]}, "x.onnx")
    assert metadata.batch == 64 and metadata.imgsz == (2048, 2048) and metadata.names == {0: "a"}
