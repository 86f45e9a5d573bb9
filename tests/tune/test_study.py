"""The study in its folder: processes that share it, trials that are killed, interrupted, pruned or wrong."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("optuna")

import bitfalcon_plugin.tune.run as running
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.tune.locks import Lock
from bitfalcon_plugin.tune.report import table, tuning_of, write_values
from bitfalcon_plugin.tune.space import Range
from bitfalcon_plugin.tune.study import FILE, Study, quiet_optuna

SPACE = {"lr0": Range(1e-4, 1e-2, log=True), "box": Range(1.0, 9.0)}
START = {"lr0": 1e-3, "box": 5.0}
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def quiet():
    with quiet_optuna():
        yield


def create(folder: Path, iterations: int = 5) -> Study:
    folder.mkdir(exist_ok=True)
    return Study.create(folder, {"optimizer": "SGD", "model": "x.yaml"}, SPACE, START, iterations)


def fitness_of(values: dict) -> float:
    return 1 - (values["box"] - 8) ** 2 / 100


def work(folder: str, pause: float = 0.0) -> None:
    """Do trials until there are enough; runs in processes of their own."""
    with quiet_optuna():
        study = Study(Path(folder))
        while (trial := study.next_trial(0)) is not None:
            time.sleep(pause)
            study.finish(trial, "complete", fitness_of(trial.values), {"epochs": 1})


def states(study: Study) -> list[str]:
    return [row.state for row in study.rows()]


def test_a_search_improves_on_its_start_and_repeats_exactly(tmp_path):
    rows = []
    for name in ("a", "b"):
        study = create(tmp_path / name, 7)
        work(str(study.folder))
        rows.append(study.rows())
    assert rows[0] == rows[1] and len(rows[0]) == 7
    assert dict(rows[0][0].values) == START and study.best().fitness > fitness_of(START)
    shares = tuning_of(study).importances
    assert list(shares) == ["box", "lr0"] and shares["box"] == pytest.approx(1)  # the fitness is a parabola of box


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are copies are of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_while_it_makes_the_study_leaves_none(tmp_path, monkeypatch, number):
    import optuna

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(optuna.Study, "enqueue_trial", lambda *_: os.kill(os.getpid(), number))
        create(tmp_path / "s")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
    assert not (tmp_path / "s" / FILE).exists()
    assert create(tmp_path / "s").next_trial(0).values == START
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [FILE, "study.lock", "trials"]


def test_rights_are_not_taken_from_a_study(tmp_path, monkeypatch, capsys):
    (tmp_path / "s").mkdir()
    Study.create(tmp_path / "s", {"allow_outside": True, "optimizer": "SGD"}, SPACE, START, 2)
    found = []
    monkeypatch.setattr(running, "_run_trial", lambda study, trial, shared, events: found.append(shared) or 1 / 0)
    for words in ({}, {"allow_outside": True}):
        with pytest.raises(ZeroDivisionError):
            running.run_tune(load_settings({"mode": "tune", "resume": str(tmp_path / "s"), **words}))
    assert found == [{"optimizer": "SGD"}, {"optimizer": "SGD", "allow_outside": True}]
    assert capsys.readouterr().err.count("type it again: allow_outside=True") == 1


def test_processes_share_one_study_and_its_number_of_trials(tmp_path):
    study = create(tmp_path / "s", 6)
    processes = [SPAWN.Process(target=work, args=(str(study.folder), 0.02)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    rows = study.rows()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [row.number for row in rows] == list(range(6)) and {row.state for row in rows} == {"complete"}
    assert len({tuple(row.values.items()) for row in rows}) == 6


def test_a_killed_trial_is_marked_and_tried_again_with_what_it_left(tmp_path):
    study = create(tmp_path / "s", 3)
    process = SPAWN.Process(target=work, args=(str(study.folder), 60.0))
    process.start()
    while not (study.trial_folder(0) / "running.lock").is_file() or states(study) != ["running"]:
        time.sleep(0.02)
    (study.trial_folder(0) / "results.csv").write_text("left")
    other = study.next_trial(0)
    assert other.number == 1  # the process lives: trial 0 is left alone
    assert states(study) == ["running", "running"]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    again = study.next_trial(0)
    assert again.values == START and (again.folder / "results.csv").read_text() == "left"
    assert states(study) == ["killed", "running", "running"] and "killed" in study.rows()[0].error
    study.finish(again, "complete", 0.5, {})
    last = study.next_trial(0)
    assert last.number == 3 and study.next_trial(0) is None  # the killed one does not count


def test_a_trial_that_kills_its_process_twice_is_not_tried_a_third_time(tmp_path):
    study = create(tmp_path / "s", 2)
    for _ in range(2):
        study.next_trial(0).lock.release()  # as the system does for a process that is killed
    trial = study.next_trial(0)
    assert states(study) == ["killed", "killed", "running"] and trial.values != START
    study.finish(trial, "complete", 0.5, {})
    assert study.next_trial(0) is None


def test_an_interrupted_trial_is_tried_again_and_a_failed_one_is_a_row(tmp_path):
    study = create(tmp_path / "s", 2)
    study.finish(study.next_trial(0), "interrupted", None, {"epochs": 0})
    trial = study.next_trial(0)
    assert trial.values == START
    assert study.finish(trial, "failed", None, {"error": "out of memory"}) is False
    trial = study.next_trial(0)
    assert study.finish(trial, "complete", 0.25, {}) is True and study.next_trial(0) is None
    assert [(row.state, row.error) for row in study.rows()] == [
        ("interrupted", ""),
        ("failed", "out of memory"),
        ("complete", ""),
    ]


def test_what_interrupts_a_search_between_drawing_and_training_leaves_no_running_trial(tmp_path):
    study = create(tmp_path / "s", 1)
    study.next_trial(0)
    study.interrupt()
    study.interrupt()
    assert states(study) == ["interrupted"] and study.next_trial(0).values == START


def test_trials_below_the_median_are_pruned_after_a_quarter_of_the_epochs(tmp_path):
    study = create(tmp_path / "s", 9)
    for fitness in (0.5, 0.6, 0.7, 0.8):
        trial = study.next_trial(0)
        assert not any(study.report(trial, epoch, fitness, 8) for epoch in range(8))
        study.finish(trial, "complete", fitness, {})
    trial = study.next_trial(0)
    assert [study.report(trial, epoch, 0.1, 8) for epoch in range(8)] == [False] * 2 + [True] * 5 + [False]
    study.finish(trial, "pruned", 0.1, {"epochs": 3})
    trial = study.next_trial(0)
    assert not any(study.report(trial, epoch, 0.9, 8) for epoch in range(8))
    row = study.rows()[4]
    assert (row.state, row.fitness, row.epochs) == ("pruned", 0.1, 3) and study.best().number == 3


def test_the_files_hold_every_trial_and_the_best_values(tmp_path):
    study = create(tmp_path / "s", 2)
    study.finish(study.next_trial(0), "failed", None, {"error": "a | b", "epochs": 0, "seconds": 1.5})
    write_values(study)
    assert not (study.folder / "best_hyperparameters.yaml").exists()
    trial = study.next_trial(0)
    study.finish(trial, "complete", 0.5, {"metrics": {"metrics/mAP50(B)": 0.75}, "epochs": 2, "seconds": 3.0})
    write_values(study)
    first, second = csv.DictReader((study.folder / "tune_results.csv").open())
    assert (first["state"], first["error"], first["fitness"]) == ("failed", "a | b", "")
    assert float(second["fitness"]) == 0.5 and float(second["metrics/mAP50(B)"]) == 0.75
    assert {key: float(second[key]) for key in SPACE} == trial.values
    best = yaml.safe_load((study.folder / "best_hyperparameters.yaml").read_text())
    assert best == {**trial.values, "optimizer": "SGD"}  # the floats exactly
    tuning = tuning_of(study)
    assert tuning.best_hyperparameters == trial.values and len(tuning) == 2 and tuning.best.number == 1
    lines = table(tuning.rows, {}).splitlines()
    assert "| 1 | complete | 0.5000 | 0.7500 |" in lines[2] and "a \\| b" in lines[3] and len(lines) == 4


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_what_is_no_study_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(UserError, match="is not the study of a search"):
        Study(tmp_path)


def test_a_lock_is_held_once_and_ends_with_its_process(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire() and not second.acquire() and not second.acquire(0.05)
    first.release()
    first.release()
    assert second.acquire()
    second.remove()
    assert not (tmp_path / "lock").exists()
