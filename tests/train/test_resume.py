"""Runs that are stopped, out of disk, or poisoned: files are whole, and a resumed run gives equal weights."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import bitfalcon_plugin.train.records as records
import bitfalcon_plugin.train.run as running
from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from tests.helpers.coloured import lay_out, place  # noqa: F401  the fixture
from tests.helpers.small_runs import COMMON, command, last, poison, results, same, train, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Weights of a run of three epochs that is never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("whole")
        return weights("whole")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of one epoch, with patience=100 given; tests copy it."""
    folder = tmp_path_factory.mktemp("finished")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("done", epochs=1, patience=100)
    return folder / "runs/done"


def write_error():
    # As torch's writer raises it: about its own bookkeeping, on the way out of the file's error.
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 598")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    return error


def refuse(error):
    def save(*args, **kwargs):
        args[1].write(b"half a file")
        raise error

    return save


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        write_error(),
    ],
)
def test_a_folder_that_cannot_be_written_leaves_the_last_checkpoint_whole(place, whole, capsys, monkeypatch, error):
    original, calls = records.save_checkpoint, []

    def save(path, checkpoint):
        calls.append(path)
        if len(calls) < 3:  # the first epoch's best and last
            return original(path, checkpoint)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", refuse(error))
            original(path, checkpoint)

    monkeypatch.setattr(records, "save_checkpoint", save)
    assert main([*command(), "epochs=3", "name=full"]) == 1
    err = capsys.readouterr().err
    assert (
        "cannot be written" in err
        and f"resume={last('full')}" in err
        and "Traceback" not in err
        and "fault of" not in err
    )
    assert torch.load(last("full"))["epoch"] == 0
    assert sorted(path.name for path in last("full").parent.iterdir()) == ["best.pt", "last.pt"]
    monkeypatch.setattr(records, "save_checkpoint", original)
    assert main(["train", f"resume={last('full')}"]) == 0
    assert same(whole, weights("full"))


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"text")])
def test_a_dataset_that_changes_ends_a_run_that_is_to_stop_and_it_can_be_resumed(place, whole, capsys, change):
    image = place / "data/images/train/3.png"
    content, yolo = image.read_bytes(), YOLO("small.yaml")
    yolo.add_callback("on_model_save", lambda trainer: change(image) if trainer.epoch == 1 else None)
    from bitfalcon_plugin.config.errors import UserError

    with pytest.raises(UserError, match="3.png"):
        yolo.train(scale="n", name="changed", **COMMON, epochs=3, on_bad_image="stop")
    image.write_bytes(content)
    assert main(["train", f"resume={last('changed')}"]) == 0
    assert same(whole, weights("changed"))


def test_three_in_a_row_go_back_to_the_last_checkpoint_with_a_lower_rate(place, capsys, monkeypatch):
    calls = poison(monkeypatch, lambda number: 3 <= number < 6)
    yolo = train("back", nbs=4, epochs=3, workers=0)
    err = f"\n{capsys.readouterr().err}"
    assert err.count("\nnote: the loss is not finite") == 3 and "Back to epoch 2" in err
    assert len(calls) == 3 + 3 + 6  # epoch 1; the three bad batches; two whole epochs
    assert yolo.trainer.rate_factor == 0.5 and yolo.trainer.guard.returned == 1
    assert all(value.isfinite().all() for value in weights("back").values())
    assert [row.split(",")[0] for row in Path("runs/back/results.csv").read_text().splitlines()] == [
        "epoch",
        "1",
        "2",
        "3",
    ]


def test_poison_without_end_ends_the_run_with_a_report(place, capsys, monkeypatch):
    poison(monkeypatch, lambda number: number >= 3)
    assert main([*command(), "epochs=9", "name=lost", "nbs=4"]) == 2
    err = capsys.readouterr().err
    assert "did not help" in err and "lower lr0" in err and str(last("lost")) in err
    content = torch.load(last("lost"))
    assert content["epoch"] == 0 and all(value.isfinite().all() for value in content["state"].values())
    poison(monkeypatch, lambda number: True)
    assert main([*command(), "epochs=9", "name=never"]) == 2
    assert "This run has no checkpoint to return to." in capsys.readouterr().err


def test_a_finished_run_is_extended_only_by_more_epochs(place, capsys):
    train("done", epochs=2)
    for tokens in ([], ["epochs=2"], ["epochs=1"]):
        assert main(["train", f"resume={last('done')}", *tokens]) == 2
        assert "finished run (2 epochs)" in capsys.readouterr().err
    assert main(["train", f"resume={last('done')}", "epochs=4"]) == 0
    assert "Resumed at epoch 3" in capsys.readouterr().out
    assert len(Path("runs/done/results.csv").read_text().splitlines()) == 5
    assert main(["train", "resume=runs/done/weights/best.pt", "epochs=9"]) == 2
    assert "without the state of a training run" in capsys.readouterr().err


def test_a_run_that_was_ended_in_its_final_measurement_is_measured(place, finished, capsys, monkeypatch):
    def stop(trainer):
        raise SystemExit(143)

    shutil.copytree(finished, "runs/done")
    with monkeypatch.context() as patch:
        patch.setattr(running, "_measure_best", stop)
        with pytest.raises(SystemExit):
            main(["train", f"resume={last('done')}", "epochs=2"])
    before, trained = Path("runs/done/weights/best.pt").read_bytes(), weights("done")
    assert not Path("runs/done/worst.csv").exists()
    assert main(["train", f"resume={last('done')}"]) == 0
    out = capsys.readouterr().out
    assert "All 2 epochs are trained; the final measurement follows" in out and "Best weights: " in out
    assert Path("runs/done/worst.csv").is_file() and len(results("done")) == 3
    assert Path("runs/done/weights/best.pt").read_bytes() == before and same(weights("done"), trained)
    assert main(["train", f"resume={last('done')}"]) == 2
    assert "finished run (2 epochs)" in capsys.readouterr().err


def test_a_resumed_run_knows_what_was_given_and_what_was_not(place, finished):
    shutil.copytree(finished, "runs/done")
    assert main(["train", f"resume={last('done')}", "epochs=2"]) == 0
    given = set(torch.load(last("done"))["training"]["given"])
    assert {"patience", "epochs", "batch"} <= given and not {"workers", "lr0"} & given


def test_resume_finds_the_newest_run_and_refuses_to_become_another(place, finished, capsys, monkeypatch):
    for name in ("older", "newer"):
        shutil.copytree(finished, f"runs/{name}")
    os.utime(last("older"), (time.time() - 100,) * 2)
    assert main(["train", "resume=True", "epochs=2", "lr0=0.5", "seed=3"]) == 2
    err = capsys.readouterr().err
    assert "lr0=0.5 (the run: 0.01)" in err and "seed=3 (the run: 0)" in err
    assert main(["train", "resume=True", "epochs=2"]) == 0
    assert len(Path("runs/newer/results.csv").read_text().splitlines()) == 3
    (place / "empty").mkdir()
    monkeypatch.chdir(place / "empty")
    assert main(["train", "resume=True"]) == 2
    assert "no last.pt lies" in capsys.readouterr().err


@pytest.mark.parametrize("poisoned, stop", [((2,), 3), ((2, 3), 4), ((4, 5, 7), 6), ((0,), 1)])
def test_poison_before_a_stop_is_undone_after_it_too(place, capsys, monkeypatch, poisoned, stop):
    # five batches an epoch, three a step
    settings = {**COMMON, "epochs": 3, "batch": 2, "nbs": 6, "warmup_epochs": 0.0}
    with monkeypatch.context() as patch:
        poison(patch, lambda number: number in poisoned)
        YOLO("small.yaml").train(scale="n", name="whole", **settings)
    with monkeypatch.context() as patch:
        calls = poison(patch, lambda number: number in poisoned)
        yolo = YOLO("small.yaml")
        yolo.add_callback(
            "on_train_batch_end", lambda _: os.kill(os.getpid(), signal.SIGTERM) if len(calls) == stop else None
        )
        with pytest.raises(SystemExit):
            yolo.train(scale="n", name="cut", **settings)
        assert main(["train", f"resume={last('cut')}"]) == 0  # the calls are counted on
    assert same(weights("whole"), weights("cut")) and all(value.isfinite().all() for value in weights("cut").values())


def test_an_epoch_that_starts_again_counts_its_own_batches_alone(place):
    stopped, counted = YOLO("small.yaml"), []
    stopped.add_callback(
        "on_train_batch_end", lambda trainer: os.kill(os.getpid(), signal.SIGTERM) if trainer.batch == 2 else None
    )
    with pytest.raises(SystemExit):  # in an epoch of five batches
        stopped.train(scale="n", name="cut", **{**COMMON, "epochs": 1, "batch": 2})
    resumed = YOLO("small.yaml")
    resumed.add_callback("on_train_epoch_end", lambda trainer: counted.append((trainer.batch, float(trainer.counted))))
    resumed.train(resume=str(last("cut")), batch=4)
    assert counted == [(3, 3.0)]  # ten images: the mean losses are over three batches, not over two more


def test_another_runs_checkpoint_in_the_same_folder_is_not_gone_back_to(place, finished, capsys, monkeypatch):
    shutil.copytree(finished, "runs/same")
    poison(monkeypatch, lambda number: True)
    assert main([*command(), "epochs=2", "name=same", "exist_ok=True", "nbs=4"]) == 2
    assert "This run has no checkpoint to return to." in capsys.readouterr().err


def test_a_run_without_one_finite_step_is_no_success(place, capsys, monkeypatch):
    poison(monkeypatch, lambda number: True)
    assert main([*command(), "epochs=2", "name=never", "nbs=64", "warmup_epochs=0"]) == 2
    assert "Not one of" in capsys.readouterr().err


def test_a_run_that_patience_ended_goes_on_only_when_asked(place, capsys, monkeypatch):
    def falls(self, epoch, metrics):
        self.best_fitness, self.best_epoch = 1.0, 0
        return epoch == 0

    monkeypatch.setattr(records.Records, "judge", falls)
    train("tired", epochs=9, patience=2)
    assert len(Path("runs/tired/results.csv").read_text().splitlines()) == 4
    assert main(["train", f"resume={last('tired')}"]) == 2
    assert "ended by itself after 3 epochs" in capsys.readouterr().err
    Path("runs/tired/worst.csv").unlink()
    assert main(["train", f"resume={last('tired')}"]) == 0  # nothing but the measurement
    assert len(results("tired")) == 4 and Path("runs/tired/worst.csv").is_file()
    assert main(["train", f"resume={last('tired')}", "patience=4"]) == 0
    assert len(Path("runs/tired/results.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize("before, after", [("2", "0"), ("0", "2"), ("2", "1")])
def test_freeze_may_change_when_a_run_is_resumed(place, before, after):
    assert main([*command(), "epochs=1", "name=frozen", f"freeze={before}", "optimizer=AdamW"]) == 0
    rows = torch.load(last("frozen"))["training"]["weights"]
    assert main(["train", f"resume={last('frozen')}", "epochs=3", f"freeze={after}"]) == 0
    moved = {
        key.split(".")[1]
        for key, value in torch.load(last("frozen"))["training"]["weights"].items()
        if not torch.equal(value, rows[key])
    }
    assert moved == {str(row) for row in range(int(after), 6)}


def test_a_run_by_the_clock_is_resumed_and_made_longer(place, capsys):
    train("clock", time=1e-9, epochs=50)  # one epoch
    assert main(["train", f"resume={last('clock')}"]) == 2
    assert "finished run (1 epochs)" in capsys.readouterr().err
    Path("runs/clock/worst.csv").unlink()
    assert main(["train", f"resume={last('clock')}"]) == 0  # nothing but the measurement
    assert len(results("clock")) == 2
    assert main(["train", f"resume={last('clock')}", "time=2e-9"]) == 0
    assert len(Path("runs/clock/results.csv").read_text().splitlines()) == 3


def test_resume_takes_a_folder_and_the_last_beside_the_best(place, finished, capsys):
    shutil.copytree(finished, "runs/done")
    assert main(["train", "resume=runs/done", "epochs=2"]) == 0
    assert main(["train", "resume=True", "model=runs/done/weights/best.pt", "epochs=3"]) == 0
    assert len(Path("runs/done/results.csv").read_text().splitlines()) == 4
    capsys.readouterr()
    for wrong in ("runs", "small.yaml"):
        assert main(["train", f"resume={wrong}"]) == 2
        assert "expected a run's last.pt" in capsys.readouterr().err
