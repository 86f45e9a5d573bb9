"""One graph in several sizes under one budget: the table agrees with the runs, and a kill changes nothing of it."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

import bitfalcon_plugin.benchmark.sizes as sizes
from bitfalcon_plugin import YOLO
from bitfalcon_plugin.benchmark.sizes_report import Experiment, SizeRecord, draw
from bitfalcon_plugin.benchmark.timing import Timing, machine
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.callbacks import Events
from tests.helpers import classed, outlined
from tests.helpers.coloured import lay_out, place  # noqa: F401  the fixture

COMMON = {
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "device": "cpu",
    "close_mosaic": 1,
    "plots": False,
    "workers": 0,
    "verbose": False,
    "optimizer": "SGD",
    "lr0": 0.05,
    "warmup_epochs": 1.0,
    "warmup_floor": 0,
    "amp": False,  # in commands too, where a measured time would decide
}
COMMAND = ["task=sizes", "model=small.yaml", *(f"{key}={value}" for key, value in COMMON.items())]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sizes, "ROUNDS", 3)


def record(folder: str) -> dict:
    return json.loads(Path(folder, "sizes.json").read_text())


def lasting(row: dict) -> dict:
    """A row without what a clock measured; of the file's size the first digits, for the paths in it may differ."""
    return {
        **{key: value for key, value in row.items() if key not in ("seconds", "latency")},
        "bytes": round(row["bytes"], -4),
    }


def weights(folder: str, scale: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(folder, scale, "weights/best.pt"))["state"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def attempt(folder: str, tokens: list[str]) -> None:
    os.chdir(folder)
    raise SystemExit(main(tokens))


def test_the_table_says_what_the_runs_left(place, capsys):
    assert main([*COMMAND, "epochs=12", "mosaic=0", "scale=[s,", "n]"]) == 0
    out, content = capsys.readouterr().out, record("runs/detect/sizes")
    assert content["scales"] == ["s", "n"] and [row["scale"] for row in content["rows"]] == ["s", "n"]
    text = Path("runs/detect/sizes/sizes.md").read_text()
    assert text in out and "12 epochs, imgsz=64, batch=4, seed=0" in text and f"torch {torch.__version__}" in text
    for row in content["rows"]:
        best = Path("runs/detect/sizes", row["scale"], "weights/best.pt")
        rows = list(csv.DictReader((best.parent.parent / "results.csv").open()))
        metrics = YOLO(best).val(data="data/data.yaml", batch=4, imgsz=64, plots=False, rect=True)
        assert row["numbers"] == metrics.headline and row["numbers"]["AP50"] > 0
        assert row["epochs"] == len(rows) == 12 and row["bytes"] == best.stat().st_size
        assert row["parameters"] == sum(p.numel() for p in YOLO(best).parameters())
        assert row["seconds"] >= float(rows[-1]["time"])
        assert row["latency"]["count"] == 3 and row["latency"]["median_ms"] > 0
        line = next(line for line in text.splitlines() if line.startswith(f"| {row['scale']} |"))
        assert (
            f"{row['parameters']:,}" in line
            and f"{row['numbers']['AP']:.4f}" in line
            and f"{row['bytes'] / 1e6:.2f}" in line
        )
    small, large = sorted(content["rows"], key=lambda row: row["scale"])
    assert small["parameters"] < large["parameters"] and small["gflops"] < large["gflops"]


def test_killed_in_each_size_it_goes_on_to_the_same_table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    lay_out(folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bitfalcon_plugin.benchmark.sizes"])  # torch is imported once

    def start(*tokens: str):
        process = context.Process(target=attempt, args=(str(folder), [*tokens]))
        process.start()
        return process

    whole = start(*COMMAND, "epochs=3", "name=whole", "project=runs")
    whole.join()
    assert whole.exitcode == 0
    cut, resume = folder / "runs/cut", []
    for awaited in ("n/weights/last.pt", "s/weights/last.pt"):
        process = start(*COMMAND, "epochs=3", "name=cut", "project=runs", *resume)
        while process.exitcode is None and not (cut / awaited).is_file():
            time.sleep(0.002)
        assert process.exitcode is None, "nothing was left to kill"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        resume = ["resume=True"]
    assert [row["scale"] for row in record(cut)["rows"]] == ["n"]
    end = start("sizes", "resume=runs/cut")
    end.join()
    assert end.exitcode == 0
    whole, resumed = record(folder / "runs/whole"), record(cut)
    assert [lasting(row) for row in whole["rows"]] == [lasting(row) for row in resumed["rows"]]
    assert whole["settings"] == resumed["settings"] and all(row["latency"]["count"] for row in resumed["rows"])
    for scale in ("n", "s"):
        assert same(weights(folder / "runs/whole", scale), weights(cut, scale))


def test_a_size_that_was_killed_after_its_last_epoch_is_measured_and_not_trained_again(place, monkeypatch):
    assert main([*COMMAND, "epochs=12", "scale=n"]) == 0
    before, path = record("runs/detect/sizes"), Path("runs/detect/sizes/sizes.json")
    path.write_text(json.dumps({**before, "rows": []}))
    monkeypatch.setattr(sizes, "run_train", None)  # nothing may be trained
    assert main(["sizes", "resume=True"]) == 0
    assert [lasting(row) for row in record("runs/detect/sizes")["rows"]] == [lasting(row) for row in before["rows"]]
    assert before["rows"][0]["numbers"]["AP50"] > 0


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(place, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sizes, "interleave", interrupted)
        assert main([*COMMAND, "epochs=1"]) == 130
    assert "bitfalcon sizes resume=runs/detect/sizes" in capsys.readouterr().out
    assert [row["latency"] for row in record("runs/detect/sizes")["rows"]] == [None, None]
    with monkeypatch.context() as patch:
        patch.setattr(sizes, "run_train", None)
        assert main(["sizes", "resume=runs/detect/sizes/sizes.json"]) == 0
    assert all(row["latency"] for row in record("runs/detect/sizes")["rows"])


def test_a_signal_in_training_ends_it_after_the_step(place, monkeypatch, capsys):
    original, events, seen = sizes.run_train, Events(), []

    def stop(_):
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    events.add("on_train_batch_end", stop)
    monkeypatch.setattr(sizes, "run_train", lambda settings, checkpoint: original(settings, checkpoint, events))
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "epochs=3", "scale=n"])
    assert ended.value.code == 143 and Path("runs/detect/sizes/n/weights/last.pt").is_file() and len(seen) == 2
    assert "bitfalcon sizes resume=runs/detect/sizes" in capsys.readouterr().out
    assert main(["sizes", "resume=runs/detect/sizes"]) == 0 and len(seen) == 9


def test_an_experiment_keeps_its_settings_and_may_get_more_sizes(place, capsys):
    assert main([*COMMAND, "epochs=1", "scale=n"]) == 0
    first = record("runs/detect/sizes")
    assert main([*COMMAND, "epochs=2", "lr0=0.1", "resume=True"]) == 2
    err = capsys.readouterr().err
    assert "epochs=2 (the experiment: 1)" in err and "lr0=0.1 (the experiment: 0.05)" in err and "optimizer" not in err
    assert main(["sizes", "resume=True", "seed=1"]) == 2
    assert "seed=1 (the experiment: 0)" in capsys.readouterr().err
    assert main([*COMMAND, "epochs=1", "resume=True", "scale=s", "verbose=True"]) == 0
    second = record("runs/detect/sizes")
    assert second["scales"] == ["n", "s"] and lasting(second["rows"][0]) == lasting(first["rows"][0])
    assert second["rows"][0]["latency"] != first["rows"][0]["latency"]  # timed anew, in turns with the other


def test_experiments_lie_side_by_side_and_resume_takes_the_newest_of_the_name(place, capsys):
    for name in ("one", "two"):
        assert main([*COMMAND, "epochs=1", "scale=n", "project=runs", f"name={name}"]) == 0
    os.utime("runs/one/sizes.json", (time.time() - 100,) * 2)
    assert main(["sizes", "resume=True", "project=runs"]) == 0
    assert "newest experiment here is runs/two" in capsys.readouterr().out
    assert main(["sizes", "resume=True", "project=runs", "name=one"]) == 0
    assert "newest experiment here is runs/one" in capsys.readouterr().out
    assert main([*COMMAND, "epochs=1", "project=runs", "name=one", "exist_ok=True"]) == 2
    assert "holds an experiment already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tokens, words",
    [
        (["scale=n,q"], ["no size 'q'", "n, s"]),
        (["model=best.pt"], ["best.pt is weights of one size"]),
        (["batch=-1"], ["batch=-1"]),
        (["save=False"], ["save=False"]),
        (["pretrained=x.pt"], ["pretrained=x.pt"]),
        (["data=nowhere.yaml"], ["nowhere.yaml"]),
        (["model=flat.yaml"], ["flat.yaml", "no scales"]),
        (["model=none.yaml"], ["none.yaml"]),
        (["resume=True"], ["no experiment lies"]),
        (["resume=data"], ["expected the folder of an experiment"]),
    ],
)
def test_mistakes_are_told_before_anything_is_made(place, capsys, tokens, words):
    flat = Path("small.yaml").read_text().replace("scales: {n: [0.33, 0.25, 256], s: [0.33, 0.5, 256]}", "")
    Path("flat.yaml").write_text(flat)
    command = [word for word in COMMAND if word.partition("=")[0] not in {token.partition("=")[0] for token in tokens}]
    assert main([*command, "epochs=1", *tokens]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words) and "fault of" not in err
    assert not Path("runs/detect/sizes").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda content: "{", "cannot be read as JSON"),
        (lambda content: "[]", "not the record"),
        (lambda content: json.dumps({**content, "format": "x"}), "not the record"),
        (lambda content: json.dumps({**content, "version": 9}), "newer bitfalcon"),
        (lambda content: json.dumps({**content, "rows": [{"scale": "n"}]}), "damaged"),
        (
            lambda content: json.dumps({**content, "rows": [{**content["rows"][0], "numbers": {"AP": "high"}}]}),
            "damaged",
        ),
        (
            lambda content: json.dumps({**content, "rows": [{**content["rows"][0], "latency": {"rounds_ms": []}}]}),
            "damaged",
        ),
        (lambda content: json.dumps({**content, "settings": {}}), "damaged"),
        (lambda content: json.dumps({**content, "rows": 3}), "damaged"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, monkeypatch, capsys, change, words):
    monkeypatch.chdir(tmp_path)
    row = {
        "scale": "n",
        "parameters": 1,
        "gflops": 1.0,
        "numbers": {"AP": 0.4, "AP50": 0.5},
        "bytes": 10,
        "epochs": 1,
        "seconds": 1.0,
        "latency": None,
    }
    content = {
        "format": "bitfalcon sizes",
        "version": 1,
        "settings": {"model": "small.yaml"},
        "scales": ["n"],
        "rows": [row],
        "used": {},
        "machine": None,
    }
    Path("sizes.json").write_text(change(content))
    assert main(["sizes", "resume=."]) == 2
    assert words in capsys.readouterr().err


def test_the_picture_is_drawn_where_matplotlib_is(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    rows = [
        SizeRecord(
            scale, 10**6 * (place + 1), 5.0, {"AP": 0.4 + place / 10}, 100, 1, 9.0, Timing((4.0 + place, 5.0, 7.0))
        )
        for place, scale in enumerate("ns")
    ]
    path = draw(
        tmp_path / "sizes.png",
        Experiment(tmp_path, {"model": "yolov12.yaml"}, ("n", "s"), tuple(rows), machine=machine()),
    )
    assert Image.open(path).width > 1000


@pytest.mark.parametrize(
    "task, numbers", [("segment", ("AP", "AP50", "Masks AP", "Masks AP50")), ("classify", ("top-1", "top-5"))]
)
def test_sizes_of_other_tasks_are_compared_by_their_numbers(tmp_path, monkeypatch, capsys, task, numbers):
    monkeypatch.chdir(tmp_path)
    {"segment": outlined, "classify": classed}[task].lay_out(tmp_path)
    model, data = {"segment": ("small-seg.yaml", "data/data.yaml"), "classify": ("small-cls.yaml", "data")}[task]
    command = ["sizes", f"model={model}", *(f"{key}={value}" for key, value in {**COMMON, "data": data}.items())]
    assert main([*command, "epochs=1", "scale=n,s"]) == 0
    content, out = record(f"runs/{task}/sizes"), capsys.readouterr().out
    assert [tuple(row["numbers"]) for row in content["rows"]] == [numbers] * 2
    assert f"| size | parameters | GFLOPs | {' | '.join(numbers)} | latency ms |" in out
    assert f"# Sizes of {model} on {Path(data).name}" in out
