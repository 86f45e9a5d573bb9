"""Runs of every task that are killed or stopped, poisoned, computed in bfloat16, frozen or watched."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.callbacks import TRAIN
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.tasks import TASKS
from bitfalcon_plugin.train.batch_size import _peak
from tests.helpers.small_runs import COMMON, GRAPHS, LAY_OUT, command, last, poison, results, same, train, weights


@pytest.fixture(params=[*GRAPHS])
def task(request, tmp_path, monkeypatch) -> str:
    """A task, in a working directory with its small graph and its dataset."""
    monkeypatch.chdir(tmp_path)
    LAY_OUT[request.param](tmp_path)
    return request.param


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Of each task, weights and results of a run of three epochs that is never interrupted."""
    runs = {}
    for name, lay_out in LAY_OUT.items():
        folder = tmp_path_factory.mktemp(name)
        lay_out(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            train("whole", name)
            runs[name] = weights("whole"), results("whole")
    return runs


def attempt(folder: str, tokens: list[str]) -> None:
    os.chdir(folder)
    raise SystemExit(main(tokens))


KILLS = {"detect": 6, "segment": 3, "pose": 3, "obb": 3}
EPOCHS = {"detect": 12, "segment": 6, "pose": 6, "obb": 6}


def test_kills_at_random_moments_end_with_the_weights_of_a_run_never_killed(task, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bitfalcon_plugin.train.run"])  # torch is imported once

    def start(*tokens: str):
        process = context.Process(target=attempt, args=(str(tmp_path), [*tokens]))
        process.start()
        return process

    length = f"epochs={EPOCHS[task]}"
    whole = start(*command(task), length, "name=whole", "workers=0")  # at the same time as the other
    draw, kills, cut = random.Random(0), 0, tmp_path / "runs/cut/weights/last.pt"
    begin = [*command(task), length, "name=cut", "exist_ok=True"]
    while kills < KILLS[task]:
        tokens = ["train", f"resume={cut}"] if cut.is_file() else begin
        process = start(*tokens, *(["workers=2"] if kills % 2 else []))
        process.join(draw.uniform(0.2, 1.2))
        if process.exitcode is not None:  # done before its time: what is left to kill has to be trained again
            assert process.exitcode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    else:
        process = start(*(["train", f"resume={cut}"] if cut.is_file() else begin))
        process.join()
        assert process.exitcode == 0
    whole.join()
    assert whole.exitcode == 0 and kills >= 3
    assert same(weights("whole"), weights("cut"))
    assert not list(Path("runs/cut").rglob(".*"))  # what a kill in the middle of a write left is swept up


@pytest.mark.parametrize(
    "task, event, number, kind, code",
    [
        ("detect", "on_train_batch_end", 2, signal.SIGTERM, 143),
        ("detect", "on_train_batch_end", 5, signal.SIGINT, 130),
        ("detect", "on_val_batch_end", 1, signal.SIGTERM, 143),
        ("segment", "on_train_batch_end", 3, signal.SIGTERM, 143),
        ("segment", "on_val_batch_end", 1, signal.SIGTERM, 143),
        ("pose", "on_train_batch_end", 5, signal.SIGINT, 130),
        ("obb", "on_train_batch_end", 2, signal.SIGTERM, 143),
    ],
    indirect=["task"],
)
def test_a_signal_ends_the_run_after_the_step_and_it_goes_on_from_there(task, whole, capsys, event, number, kind, code):
    yolo, calls = YOLO(GRAPHS[task]), []

    def stop(_):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), kind)

    yolo.add_callback(event, stop)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as ended:
        yolo.train(scale="n", name="cut", **COMMON, epochs=3)
    if kind == signal.SIGTERM:
        assert ended.value.code == code
    assert f"resume={last('cut')}" in capsys.readouterr().out
    assert len(calls) == number
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.Handlers.SIG_DFL)
    assert main(["train", f"resume={last('cut')}"]) == 0
    assert same(whole[task][0], weights("cut"))
    assert whole[task][1] == results("cut")


def test_a_poisoned_batch_costs_one_step_and_is_named(task, capsys, monkeypatch):
    poison(monkeypatch, lambda number: number == 4, task)
    yolo = train("poisoned", task, nbs=4)
    err = capsys.readouterr().err
    assert err.count("step left out") == 1 and "1 so far" in err and "data/images/train" in err
    assert yolo.trainer.guard.skipped == 1 and yolo.trainer.rate_factor == 1
    assert all(value.isfinite().all() for value in weights("poisoned").values())


def test_bfloat16_computes_other_weights_and_finite_float32_ones(task, whole, capsys):
    train("half", task, amp="bf16")
    assert "bfloat16" in capsys.readouterr().out
    found = weights("half")
    assert not same(whole[task][0], found)
    assert all(value.isfinite().all() and value.dtype != torch.bfloat16 for value in found.values())
    first, *rows = results("half")
    losses = [index for index, name in enumerate(first) if name.endswith("_loss")]
    assert len(losses) == 2 * len(TASKS[task].losses)
    exact = whole[task][1][1:]
    for row, other in zip(rows, exact, strict=True):
        for index in losses:
            assert float(row[index]) == pytest.approx(float(other[index]), rel=0.1, abs=0.05), first[index]


def test_frozen_rows_keep_their_weights_and_statistics(task):
    train("one", task, freeze=3, epochs=1, optimizer="SGD", lr0=0.02)
    train("two", task, freeze=3, epochs=1, optimizer="SGD", lr0=0.1)
    one, two = weights("one"), weights("two")
    moved = {key.removeprefix("raw ").split(".")[1] for key in one if not torch.equal(one[key], two[key])}
    assert moved == {"3", "4", "5"}


PARTS = {"segment": "seg", "pose": "pose"}  # attributes of the metrics beside box


def test_functions_are_called_at_the_same_events_whatever_the_task(task):
    yolo, events, losses, validated = YOLO(GRAPHS[task]), [], [], []
    for event in TRAIN:
        yolo.add_callback(event, lambda trainer, event=event: events.append(event))
    yolo.add_callback("on_train_batch_end", lambda trainer: losses.append(trainer.loss_items.tolist()))
    yolo.add_callback("on_val_end", lambda validator: validated.append(validator.metrics))
    yolo.train(scale="n", name="watched", **COMMON, epochs=1)
    assert set(events) == set(TRAIN) - {"on_params_update"} and events.count("on_train_batch_end") == 3
    names = yolo.trainer.loss_names
    assert names == tuple(TASKS[task].losses) and all(len(row) == len(names) and min(row) > 0 for row in losses)
    assert set(yolo.trainer.metrics) >= set(TASKS[task].columns)
    metrics = validated[-1]
    assert list(metrics.results_dict) == [*TASKS[task].columns, "fitness"] and metrics.keys == [*TASKS[task].columns]
    assert len(metrics.mean_results()) == len(metrics.class_result(0)) == len(metrics.keys)
    assert metrics.maps.shape == (len(yolo.names),) and len(metrics.curves) == len(metrics.curves_results)
    part = PARTS.get(task)
    assert (part is None) == (len(metrics.keys) == 4)
    for numbers in (metrics.box, *([getattr(metrics, part)] if part else [])):
        assert 0 <= numbers.map <= numbers.map50 <= 1 and numbers.maps.shape == metrics.maps.shape
    assert all({"Class", "Box-P", "Box-R", "Box-F1"} <= row.keys() for row in metrics.summary())
    assert list(metrics.losses) == list(TASKS[task].losses) and metrics.speed["inference"] > 0


def test_the_batch_that_fits_is_searched_with_all_losses(task, monkeypatch):
    """The steps that are tried on a GPU, here without one: all that a label has takes its share."""
    model, kept = build(GRAPHS[task], "n", nc=3), []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda *_: 1000)
    own = TASKS[task]
    monkeypatch.setitem(
        TASKS, task, replace(own, loss=lambda *a, **k: kept.append((k, own.loss(*a, **k))) or kept[-1][1])
    )
    options = own.loss_options(load_settings({"mask_ratio": 2}), model)
    assert _peak(model, 2, 64, torch.device("cpu"), None, options) > 1000
    ((arguments, losses),) = kept
    assert list(losses) == list(own.losses) and all(value > 0 for value in losses.values())
    assert all(arguments[key] == value for key, value in options.items())
    assert all(parameter.grad is None for parameter in model.parameters())
