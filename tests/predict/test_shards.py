"""predict shard=3/64: every image once, whatever is killed and started again; files of JSON lines and of Parquet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import torch

from bitfalcon_plugin import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.predict import shards
from bitfalcon_plugin.predict.rows import TYPES, row_of, row_of_unread
from bitfalcon_plugin.predict.run import run_predict
from tests.helpers.finder import BrightBoxes, painted
from tests.helpers.paths import ROOT
from tests.helpers.results import NAMES, ROWS, result

IMAGES = 11


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in range(IMAGES):
        painted(tmp_path / f"in/{index:02}.png", (64, 48), [(index % 3, 8, 8, 30 + index, 40)])
    return tmp_path


@pytest.fixture(params=["jsonl", "parquet"])
def form(request, monkeypatch):
    if request.param == "parquet" and not find_spec("pyarrow"):
        pytest.skip("pyarrow is not installed")
    if request.param == "jsonl":
        monkeypatch.setattr(shards, "find_spec", lambda name: None)
    monkeypatch.setattr(shards, "ROWS", 2)
    return request.param


def shard_of(which, source="in", **given):
    settings = {"mode": "predict", "imgsz": 64, "save": False, "batch": 1, "shard": which, **given}
    return run_predict(BrightBoxes(), load_settings(settings), source, False)


def rows_in(folder):
    rows = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    for path in folder.glob("*/*.parquet"):
        from pyarrow import parquet

        rows += parquet.read_table(path).to_pylist()
    return sorted(rows, key=lambda row: row["image"])


def test_all_shards_together_are_the_prediction_of_the_source(here, form):
    results = list(shard_of(None))
    counts = [len(list(shard_of(f"{part}/3"))) for part in (1, 2, 3)]
    assert counts == [4, 4, 3]
    rows = rows_in(here / "runs/detect/shards")
    assert [row["image"] for row in rows] == [result.path for result in results]
    for row, found in zip(rows, results):
        assert (row["height"], row["width"]) == (48, 64) and row["class"] == found.boxes.cls.tolist()
        assert row["name"] == [found.names[index] for index in row["class"]]
        torch.testing.assert_close(torch.tensor(row["box"]), found.boxes.xyxy, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.tensor(row["confidence"]), found.boxes.conf, rtol=0, atol=1e-5)


def test_a_shard_that_ended_early_goes_on_behind_its_last_row(here, form):
    running = shard_of("1/1")
    for _ in range(5):
        next(running)
    running.close()
    before = rows_in(here / "runs/detect/shards")
    assert 4 <= len(before) <= 6
    rest = [result.path for result in shard_of("1/1")]
    assert not set(rest) & {row["image"] for row in before}
    rows = rows_in(here / "runs/detect/shards")
    assert [row["image"] for row in rows] == [str(path) for path in sorted((here / "in").iterdir())]
    assert list(shard_of("1/1")) == []


def test_half_a_line_is_cut_off(here, monkeypatch):
    monkeypatch.setattr(shards, "find_spec", lambda name: None)
    list(shard_of("1/1"))
    path = here / "runs/detect/shards/shard-1-of-1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert len(list(shard_of("1/1"))) == 1
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_at_random_moments(here):
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    first = subprocess.Popen(command, cwd=here, env=environment, stdout=subprocess.PIPE, text=True)
    for _ in range(4):
        first.stdout.readline()
    time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert 0 < len(second.stdout.splitlines()) < IMAGES
    assert [row["image"] for row in rows_in(here / "runs/detect/shards")] == [
        str(path) for path in sorted((here / "in").iterdir())
    ]


SCRIPT = """
import time
from bitfalcon_plugin.predict import shards
from tests.predict.test_shards import shard_of
shards.find_spec = lambda name: None
for result in shard_of("1/1"):
    print(result.path, flush=True)
    time.sleep(0.02)
"""


def test_an_image_that_cannot_be_read_has_a_row_that_says_why(here, form):
    (here / "in/05.png").write_text("no picture")
    assert len(list(shard_of("1/1"))) == IMAGES - 1
    broken = [row for row in rows_in(here / "runs/detect/shards") if row.get("error")]
    assert [row["image"].endswith("05.png") for row in broken] == [True] and "decoded" in broken[0]["error"]
    assert list(shard_of("1/1")) == []


@pytest.mark.parametrize("which", ["65/64", "0/4", "3", "a/b", "-1/4", "1/0", "", "1/2/3"])
def test_no_shard(here, which):
    with pytest.raises(UserError, match="expected a part and the number of parts"):
        shard_of(which)


def test_what_would_mix_rows_is_refused(here, form):
    list(shard_of("1/2"))
    with pytest.raises(UserError, match="begun with conf=None; now given: 0.5"):
        shard_of("1/2", conf=0.5)
    painted(here / "in/new.png", (64, 48), [])
    with pytest.raises(UserError, match="begun with images=11.*now given: 12"):
        shard_of("1/2")
    assert len(list(shard_of("1/2", name="second"))) == 6


def test_one_process_at_a_time(here):
    pytest.importorskip("fcntl")
    running = shard_of("1/2")
    with pytest.raises(UserError, match="another process is writing it"):
        shard_of("1/2")
    assert len(list(shard_of("2/2"))) == 5 and len(list(running)) == 6


@pytest.mark.parametrize(
    "source, given, reason",
    [
        ([torch.zeros(1, 3, 64, 64)], {}, "only image files"),
        ("in", {"embed": [0]}, "embed= has no rows"),
        ("in", {"mode": "track"}, "share out whole clips"),
    ],
)
def test_what_cannot_be_shared_out(here, source, given, reason):
    network = BrightBoxes()
    network.model = [None] * 3
    settings = load_settings({"mode": "predict", "imgsz": 64, "save": False, "shard": "1/2", **given})
    with pytest.raises(UserError, match=reason):
        run_predict(network, settings, source, False)


def test_a_record_or_a_line_that_is_none(here, monkeypatch):
    monkeypatch.setattr(shards, "find_spec", lambda name: None)
    list(shard_of("1/1"))
    rows, record = (here / f"runs/detect/shards/shard-1-of-1.{suffix}" for suffix in ("jsonl", "json"))
    rows.write_bytes(b"[]\n" + rows.read_bytes())
    with pytest.raises(UserError, match="line 1: no row of a shard"):
        shard_of("1/1")
    record.write_text("{}")
    with pytest.raises(UserError, match="no record of a shard"):
        shard_of("1/1")


def test_rows_of_every_task():
    masks = torch.zeros(3, 200, 100, dtype=torch.bool)
    masks[0, 20:80, 10:50] = True
    points = torch.arange(12.0).reshape(3, 2, 2)
    boxed = row_of("a.png", result(masks=masks, keypoints=points))
    assert boxed["box"] == ROWS[:, :4].tolist() and boxed["name"] == ["person", "bus", "bus"]
    assert boxed["keypoints"] == points.tolist() and boxed["xywhr"] is None
    coco = pytest.importorskip("pycocotools.mask")
    decoded = coco.decode([{"size": [200, 100], "counts": counts.encode()} for counts in boxed["mask"]])
    assert (torch.from_numpy(decoded).permute(2, 0, 1).bool() == masks).all()

    oriented = torch.tensor([[30.0, 50.0, 40.0, 20.0, 0.5, 0.9, 1.0]])
    turned = row_of("a.png", result(None, obb=oriented))
    assert turned["xywhr"] == [[30.0, 50.0, 40.0, 20.0, 0.5]] and turned["class"] == [1] and turned["box"] is None

    classified = row_of("a.png", result(None, probs=torch.tensor([0.25, 0.75])))
    assert classified["name"] == [NAMES[1], NAMES[0]] and classified["confidence"] == [0.75, 0.25]
    assert set(boxed) == set(turned) == set(classified) == set(row_of_unread("a.png", "broken")) == set(TYPES)


def test_rows_as_a_table_of_arrow():
    pytest.importorskip("pyarrow")
    from bitfalcon_plugin.predict.rows import arrow_table

    rows = [row_of("a.png", result()), row_of("b.png", result(ROWS[:0])), row_of_unread("c.png", "broken")]
    table = arrow_table(rows)
    assert table.to_pylist()[1:] == rows[1:] and table["box"].to_pylist()[0] == ROWS[:, :4].tolist()
    assert arrow_table(rows[2:]).schema == table.schema
