"""Values that nobody means: each setting takes or refuses them at once, and nothing but a UserError comes out."""

from __future__ import annotations

import pathlib
import time

import numpy as np
import pytest
import torch

from bitfalcon_plugin.config.command_line import parse_tokens
from bitfalcon_plugin.config.default_table import active_settings, table
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.keywords import parse_keywords
from bitfalcon_plugin.config.settings import Settings, load_settings
from bitfalcon_plugin.models.patterns import name_matcher
from bitfalcon_plugin.tune.space import read_space


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


LOOP: list = []
LOOP.append(LOOP)
NUMBERS = [-1, 0, -(10**6), 10**6, 10**9, 10**30, -(10**30), 10**400, 10**5000, 1e308, -0.0, 1e-320]
NUMBERS += [float("nan"), float("inf"), float("-inf"), 0.5, 2**63, np.int64(-9), np.float32("nan")]
TEXTS = ["", " ", "\0", "a\0b", "\x1b[2J", "\r\n", "\ud800", "\udcff", "x" * 300, "x" * 10**6, "9" * 5000, "[" * 5000]
TEXTS += [
    "..",
    "../..",
    "n/../../../up",
    "/",
    "/etc/passwd",
    "C:\\x",
    "\\\\host\\x",
    ".",
    "~",
    "~nobody-of-this-name/x",
]
TEXTS += [
    "(a+)+$",
    "(.*)*x",
    "*",
    "?",
    "**/" * 99,
    "http://",
    "nan",
    "1e999",
    "10**30",
    "__import__('os')",
    "None",
    "{",
]
OTHERS = [None, True, [], (), {}, [[]], {"a": {}}, nested(50), nested(100_000), LOOP, set(), {1, "a"}, range(10**9)]
OTHERS += [list(range(10**5)), [10**30] * 3, [float("nan")], b"\xff", b"x" * 10**6, object(), int, lambda: 0, Ellipsis]
OTHERS += [np.zeros(3), np.zeros((2, 2), object), torch.zeros(2), torch.tensor(float("nan")), pathlib.Path("\0")]
OTHERS += [1j, [None], ["x"] * 10**5, {i: i for i in range(10**5)}, ["\0"], {"\0": "\0"}]
VALUES = [*NUMBERS, *TEXTS, *OTHERS]


@pytest.mark.parametrize("key", table())
def test_a_setting_takes_or_refuses_anything_at_once(key):
    begin = time.process_time()
    for value in VALUES:
        for make in (load_settings, lambda given: parse_keywords("predict", given)):
            if key == "cfg" and isinstance(value, str) and value.startswith("/"):
                continue  # /etc/passwd is a file to read
            start = time.process_time()
            try:
                settings = make({key: value})
            except UserError as error:
                assert len(str(error)) < 2000
            else:
                assert isinstance(settings, Settings)
                check(key, getattr(settings, key, None))
            assert time.process_time() - start < 5
    assert time.process_time() - begin < 60


def check(key: str, value: object) -> None:
    """What was accepted lies in the range that its row states, and is no text that a system call would refuse."""
    row = active_settings().get(key, {})
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, (int, float)) and not isinstance(item, bool) and "type" in row:
            assert row.get("min", -360) <= item <= row.get("max", 2**63), (key, item)
        if isinstance(item, str):
            assert "\0" not in item and len(item) <= 4096, (key, item)


@pytest.mark.parametrize("key", [key for key, row in active_settings().items() if "type" in row])
def test_every_number_has_a_range(key):
    row = active_settings()[key]
    kinds = set(row["type"].split("|"))
    if kinds & {"int", "float", "ints", "numbers", "size"}:
        assert "max" in row and ("min" in row or "above" in row), key


@pytest.mark.parametrize("key", table())
def test_a_command_line_takes_or_refuses_any_text(key):
    for text in TEXTS:
        for tokens in ([f"{key}={text}"], [f"--{key}", text], ["predict", key, "=", text]):
            start = time.process_time()
            try:
                parse_tokens(tokens, [])
            except UserError as error:
                assert len(str(error)) < 5000
            assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "name", ["..", "../x", "n/../../../up", "a/..", "/tmp/x", "\\x", "C:\\x", "C:x", ".", "./.", "a/../..", "a\0b"]
)
def test_a_name_stays_inside_of_its_project(name):
    with pytest.raises(UserError, match="name="):
        load_settings({"name": name})
    for inside in ("x", "x/y", "x..y", "2024-01-01", ".hidden", "..."):
        assert load_settings({"name": inside}).name == inside


SLOW = [
    "(a+)+$",
    "(a|aa)+$",
    "(.*)*x",
    ".*.*.*.*x",
    ".?" * 30,
    "(a|b|c|d)" * 20,
    "(a|)" * 30,
    "(.{1,9}){9}",
    "a" * 3000,
]
SLOW += [r"(\w+\.)*x", r"(a)\1", "(?=a*a*a*)b", "(?P<n>a)(?P=n)", "(?i:a)", "((a|b)|(c|d))" * 9, "{", "a{1,999999}"]


@pytest.mark.parametrize("pattern", SLOW)
def test_expressions_that_may_be_slow_are_refused(pattern):
    with pytest.raises(UserError, match="keep="):
        name_matcher("keep", pattern)


@pytest.mark.parametrize("pattern", [r".*.*.*x", r"\w*\w+.*!", r"(m|mo|mod)(o|d|)(e|.).*.*!", ".?.?.?.?.?.*.*!"])
def test_expressions_that_are_taken_are_quick(pattern):
    matches, start = name_matcher("bit", pattern), time.process_time()
    assert not any(matches(f"model.{row}.m.0.0.attn.qkv.conv.more.of.it") for row in range(300))
    assert time.process_time() - start < 10


def test_expressions_find_names():
    names = ["model.0.conv", "model.2.m.0.cv1.conv", "model.21.cv2.0.0.conv", "model.21.cv3.0.1"]
    for pattern, found in {
        r"model\.2\.": [1],
        "model.2": [1, 2, 3],
        r"model\.(0|21)\.": [0, 2, 3],
        r"cv[12]\.": [1, 2],
        r"^model\.\d+\.cv\d.*\.[01]$": [3],
        "m.0|cv3": [1, 3],
        "x{0}conv$": [0, 1, 2],
    }.items():
        assert [index for index, name in enumerate(names) if name_matcher("bit", pattern)(name)] == found, pattern


def test_the_space_of_a_search_is_read_or_refused():
    for value in [*VALUES, (10**400, 10**401), (10**5000, 1), (float("nan"), 1), (1, 2, 3), (2, 1), {"min": 10**400}]:
        for given in ({"lr0": value}, {"imgsz": value}, {"model": value}, {"\x1b[2J": value}):
            try:
                assert read_space(given, "space=")
            except UserError as error:
                assert "\x1b" not in str(error)
