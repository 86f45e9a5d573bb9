"""The record, the table and the picture of ternary steps."""

from __future__ import annotations

import json
import math

import pytest
import torch

from bitfalcon_plugin.benchmark.timing import Timing, machine
from bitfalcon_plugin.bit.report import FILE, Step, draw, load_steps, markdown, save_steps, time_steps
from bitfalcon_plugin.config.errors import MissingFileError, UserError
from tests.helpers.tiny_models import CONV, lived, small_model

FIRST = Step(
    "fp32",
    ap_raw=0.612,
    bytes_fp32=10_240_000,
    bytes_fp16=5_120_000,
    latency=Timing((50.0, 52.0, 49.0)),
    x_nchw=1.0,
    x_channels_last=0.8,
    x_bf16=0.5,
)
HEAD = Step(
    "head",
    ("model.21.cv2.0.0", "model.21.cv2.0.1"),
    0.18,
    0.011,
    0.423,
    0.607,
    0.606,
    10_240_000,
    5_120_000,
    3_600_000,
    Timing((40.0, 41.0, 39.0)),
    1.24,
    1.02,
    0.7,
    "onednn",
)
ALL = Step(
    "all", tuple(f"model.{i}" for i in range(9)), 0.96, 0.0, 0.2, None, None, 10_240_000, 5_120_000, 660_000, None
)


def cells(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_record_comes_back_as_it_was_written(tmp_path):
    steps = [FIRST, HEAD, ALL]
    path = save_steps(tmp_path, steps)
    assert path == tmp_path / FILE and load_steps(tmp_path) == steps == load_steps(path)
    save_steps(tmp_path, steps[:1])
    assert load_steps(tmp_path) == [FIRST] and [item.name for item in tmp_path.iterdir()] == [FILE]


def test_what_is_no_number_is_not_measured(tmp_path):
    save_steps(tmp_path, [Step("fp32", ap_raw=math.nan, ap_norms=0.0)])
    assert load_steps(tmp_path) == [Step("fp32", ap_raw=None, ap_norms=0.0)]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda rows: "{", "cannot be read as JSON"),
        (lambda rows: "[]", "not a record of steps"),
        (lambda rows: json.dumps({"format": "bitfalcon bit steps", "version": 2, "steps": rows}), "newer bitfalcon"),
        (lambda rows: json.dumps({"format": "bitfalcon bit steps", "version": 1}), "steps is 'None', expected a list"),
        (
            lambda rows: json.dumps({"format": "bitfalcon bit steps", "version": 1, "steps": [3]}),
            r"steps\[0\] is '3', expected a mapping",
        ),
        (
            lambda rows: json.dumps(
                {"format": "bitfalcon bit steps", "version": 1, "steps": [rows[0], {**rows[1], "ap_raw": "high"}]}
            ),
            r"steps\[1\].ap_raw is 'high'",
        ),
        (
            lambda rows: json.dumps(
                {"format": "bitfalcon bit steps", "version": 1, "steps": [{**rows[0], "bytes_fp32": True}]}
            ),
            "bytes_fp32",
        ),
        (
            lambda rows: json.dumps(
                {"format": "bitfalcon bit steps", "version": 1, "steps": [{**rows[0], "x_bf16": math.nan}]}
            ),
            "x_bf16",
        ),
        (
            lambda rows: json.dumps(
                {"format": "bitfalcon bit steps", "version": 1, "steps": [{**rows[0], "ternary_share": math.nan}]}
            ),
            r"steps\[0\].ternary_share is 'nan', expected float",
        ),
        (
            lambda rows: json.dumps(
                {"format": "bitfalcon bit steps", "version": 1, "steps": [{**rows[0], "latency": {"rounds_ms": []}}]}
            ),
            "latency",
        ),
        (
            lambda rows: json.dumps(
                {"format": "bitfalcon bit steps", "version": 1, "steps": [{**rows[0], "replaced": "head"}]}
            ),
            "replaced",
        ),
        (
            lambda rows: json.dumps({"format": "bitfalcon bit steps", "version": 1, "steps": [{**rows[0], "more": 1}]}),
            "more missing or not known",
        ),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, change, words):
    rows = json.loads(save_steps(tmp_path, [FIRST, HEAD]).read_text())["steps"]
    (tmp_path / FILE).write_text(change(rows))
    with pytest.raises(UserError, match=words):
        load_steps(tmp_path)


def test_a_record_that_is_not_there_is_a_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        load_steps(tmp_path)


def test_the_table_has_the_float_row_first_and_always_one_of_bf16():
    text = markdown([HEAD, FIRST, ALL], machine())
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
    assert names == ["fp32", "bf16", "head", "all"]
    head = cells(text, "head")
    assert head[2] == "18.0" and head[3] == "1.1 (-60.1)" and head[4] == "42.3 (-18.9)"
    assert head[5] == "60.7 (-0.5)" and head[6] == "60.6 (-0.6)" and head[7] == "10.24 / 5.12 / 3.60"
    assert head[8] == "40.0 (39.5 to 40.5)" and head[9:] == ["1.24", "1.02", "0.70", "onednn"]
    assert cells(text, "fp32")[3] == "61.2" and cells(text, "fp32")[6] == "-"
    assert cells(text, "bf16")[7] == "10.24 / 5.12 / -" and cells(text, "bf16")[8] == "-"
    assert cells(text, "all")[1].endswith("and 5 more") and cells(text, "all")[8] == "-"
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert f"torch {torch.__version__}" in text and "3 rounds" in text


def test_text_of_others_does_not_break_the_table():
    text = markdown([FIRST, Step("a|b", ("x\ny",), backend="c|d")], {})
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert row.replace("\\|", "").count("|") == 14 and "x y" in row


def test_an_empty_record_is_a_table_too():
    text = markdown([], {})
    assert [cells(text, name)[3] for name in ("fp32", "bf16")] == ["-", "-"]


def test_steps_are_timed_in_turns_with_the_float_model():
    torch.manual_seed(0)
    model = lived(small_model(CONV))
    calls = []
    steps = time_steps(
        [Step("fp32", ap_raw=0.5), Step("head"), Step("all", x_bf16=9.0)],
        {"head": lambda: calls.append(1)},
        model,
        32,
        rounds=3,
    )
    first, half, head, untimed = steps
    assert [step.name for step in steps] == ["fp32", "bf16", "head", "all"] and len(calls) == 3 + 2
    assert first.x_nchw == 1.0 and half.x_bf16 == 1.0 and first.ap_raw == 0.5
    assert {step.latency.count for step in (first, half, head)} == {3}
    assert head.x_nchw == head.latency.faster_than(first.latency) and head.x_bf16 == head.latency.faster_than(
        half.latency
    )
    assert untimed == Step("all", x_bf16=9.0)
    with pytest.raises(ValueError, match="runs of no step: neck"):
        time_steps([], {"neck": print}, model, 32)


def test_the_picture_is_drawn_with_any_part_missing(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    for number, steps in enumerate(([FIRST, HEAD, ALL], [FIRST], [], [ALL], [Step("x", latency=Timing((1.0,)))])):
        path = draw(tmp_path / f"{number}.png", steps, machine())
        assert Image.open(path).width > 1000
