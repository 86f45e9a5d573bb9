"""The verb tune: what a search leaves, what ends it and what does not, and trainings with its best values."""

from __future__ import annotations

import csv
import functools
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("optuna")

import bitfalcon_plugin.tune.run as tune
from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.posed import lay_out as lay_out_poses
from tests.helpers.small_yolo import QUICK_TRAINING, same_state, save_weights

SPACE = {"lr0": (1e-3, 1e-1), "mosaic": (0.0, 1.0)}
OPTIONS = {**QUICK_TRAINING, "warmup_epochs": 0.0, "optimizer": "SGD"}
COMMAND = ["tune", "model=small.yaml", *(f"{key}={value}" for key, value in OPTIONS.items())]
SPACE_WORD = "space={'lr0':(1e-3,1e-1),'mosaic':(0.0,1.0)}"
FOLDER = Path("runs/detect/tune")


def rows(folder: Path = FOLDER) -> list[dict[str, str]]:
    with (folder / "tune_results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class FakeTraining:
    """Stands for run_train: a fitness by the settings, after epochs that callbacks see; or an error."""

    def __init__(self, folder: Path, fitness, epochs: int = 4) -> None:
        self.weights, self.fitness, self.epochs, self.settings = folder / "fake.pt", fitness, epochs, []
        self.weights.write_bytes(b"weights")

    def __call__(self, settings, checkpoint, events):
        self.settings.append(settings)
        final = self.fitness(settings)
        for epoch in range(self.epochs):
            fitness = final * (epoch + 1) / self.epochs
            events.fire("on_model_save", SimpleNamespace(epoch=epoch, epochs=self.epochs, fitness=fitness))
        metrics = SimpleNamespace(fitness=final, results_dict={"metrics/mAP50(B)": final, "fitness": final})
        return SimpleNamespace(metrics=metrics, best=self.weights)


@pytest.fixture()
def fake(place, monkeypatch):
    """Replace the training by one whose fitness a function of the settings gives."""

    def install(fitness, **options) -> FakeTraining:
        training = FakeTraining(place, fitness, **options)
        monkeypatch.setattr(tune, "run_train", training)
        return training

    return install


def test_the_best_values_train_to_the_same_fitness_with_cfg(place, capsys):
    """A real search of two trainings; a training with cfg=best_hyperparameters.yaml repeats the best one exactly."""
    assert main([*COMMAND, "epochs=2", "iterations=2", SPACE_WORD, "plots=True"]) == 0
    output = capsys.readouterr()
    first, second = rows()
    assert (first["state"], second["state"]) == ("complete", "complete") and float(first["lr0"]) == 0.01
    best = max((first, second), key=lambda row: float(row["fitness"]))
    values = yaml.safe_load((FOLDER / "best_hyperparameters.yaml").read_text())
    assert values == {"lr0": float(best["lr0"]), "mosaic": float(best["mosaic"]), "optimizer": "SGD"}
    assert (FOLDER / "tune.md").read_text() in output.out and "best_hyperparameters.yaml" in output.out
    assert (FOLDER / "tune_importance.png").is_file() == ("no picture" not in output.err)
    assert sorted(path.name for path in FOLDER.rglob("*.pt")) == ["best.pt"]
    again = [word for word in COMMAND[1:] if not word.startswith("optimizer")]
    cfg = f"cfg={FOLDER}/best_hyperparameters.yaml"
    assert main(["train", *again, "epochs=2", cfg, "name=again"]) == 0
    trained, kept = (
        load_checkpoint(path) for path in ("runs/detect/again/weights/best.pt", FOLDER / "weights/best.pt")
    )
    assert trained.metrics == kept.metrics
    assert all((trained.state[name] == tensor).all() for name, tensor in kept.state.items())


def test_a_script_searches_from_its_weights_and_stays_as_it_is(place, fake):
    model = YOLO(save_weights(place, "x.pt"))
    next(iter(model.model.parameters())).data.zero_()
    before = YOLO(place / "x.pt")
    training = fake(lambda settings: settings.lr0)
    tuning = model.tune(use_ray=False, iterations=3, space=SPACE, save=False, val=False, **OPTIONS)
    assert len(tuning) == 3 and tuning.best.fitness == max(row.fitness for row in tuning)
    assert tuning.best_hyperparameters == dict(tuning.best.values) and str(tuning.folder) == str(FOLDER)
    assert model.ckpt_path == str(place / "x.pt") and not same_state(before, model)
    first = training.settings[0]
    assert (first.save, first.val, first.optimizer, first.project) == (False, False, "SGD", str(FOLDER / "trials"))
    assert same_state(YOLO(first.model), model)  # initial.pt has the weights of the object, not of its file


def test_a_failed_trial_is_a_row_and_not_the_end(fake, capsys):
    def fitness(settings):
        if len(training.settings) == 2:
            raise RuntimeError("CUDA out of memory\nand so on")
        return settings.lr0

    training = fake(fitness)
    assert main([*COMMAND, "iterations=4", SPACE_WORD]) == 0
    table = rows()
    assert [row["state"] for row in table] == ["complete", "failed", "complete", "complete"]
    assert table[1]["error"] == "RuntimeError: CUDA out of memory and so on" and table[1]["fitness"] == ""
    assert "note: trial 1 failed: RuntimeError" in capsys.readouterr().err


@pytest.mark.parametrize("iterations", [2, 9])
def test_a_search_whose_first_trials_fail_alike_ends_with_the_reason(fake, iterations, capsys):
    def fitness(settings):
        raise UserError("no images")

    fake(fitness)
    assert main([*COMMAND, f"iterations={iterations}", SPACE_WORD]) == 2
    assert len(rows()) == min(iterations, 3) and "no images" in capsys.readouterr().err.splitlines()[-1]


def test_trials_that_are_behind_are_ended_early(fake):
    best = [0.5, 0.6, 0.7, 0.8]
    training = fake(lambda settings: best[len(training.settings) - 1] if len(training.settings) <= 4 else 0.1)
    assert main([*COMMAND, "iterations=6", SPACE_WORD]) == 0
    assert [row["state"] for row in rows()] == ["complete"] * 4 + ["pruned"] * 2
    assert [row["epochs"] for row in rows()] == ["4"] * 4 + ["2"] * 2  # the first of four epochs ends none
    assert (FOLDER / "weights/best.pt").read_bytes() == b"weights"


def test_ctrl_c_ends_with_what_there_is_and_resume_goes_on(fake, capsys):
    def fitness(settings):
        if len(training.settings) == 3:
            raise KeyboardInterrupt
        return settings.lr0

    training = fake(fitness)
    assert main([*COMMAND, "iterations=4", SPACE_WORD]) == 130
    out = capsys.readouterr().out
    assert f"To go on with it: bitfalcon tune resume={FOLDER}" in out and "Table:" in out
    assert [row["state"] for row in rows()] == ["complete", "complete", "interrupted"]
    assert (FOLDER / "best_hyperparameters.yaml").is_file()
    interrupted = training.settings[2]
    assert main(["tune", "resume=True", "workers=0"]) == 0
    assert [row["state"] for row in rows()] == ["complete", "complete", "interrupted", "complete", "complete"]
    assert (training.settings[3].lr0, training.settings[3].mosaic) == (interrupted.lr0, interrupted.mosaic)
    assert main(["tune", f"resume={FOLDER}", "iterations=5"]) == 0 and len(rows()) == 6  # one more


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resume=True", "epochs=5"], "epochs=5 (the experiment: 1)"),
        (["resume=True", SPACE_WORD], "space= belongs to a new search"),
        (["resume=nowhere"], "expected the folder of a search"),
        (["resume=True", "project=elsewhere"], "no search lies in or below"),
        (["model=small.yaml", "data=data/data.yaml", "space={'lr00':(0,1)}"], "Did you mean 'lr0'?"),
        (["model=small.yaml", "data=none.yaml"], "Dataset 'none.yaml' is not there"),
        (["model=none.yaml", "data=data/data.yaml"], "Model 'none.yaml' does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(fake, words, said, capsys):
    training = fake(lambda settings: 0.5)
    assert main([*COMMAND, "iterations=1", SPACE_WORD]) == 0
    capsys.readouterr()
    folders = sorted(os.listdir("runs/detect"))
    assert main(["tune", *words]) == 2
    assert said in capsys.readouterr().err and len(training.settings) == 1
    assert sorted(os.listdir("runs/detect")) == folders  # no folder of a search that cannot be


def test_the_search_lies_in_the_folder_of_the_task(place, fake, monkeypatch):  # noqa: F811
    (place / "poses").mkdir()
    lay_out_poses(place / "poses")
    monkeypatch.chdir(place / "poses")
    fake(lambda settings: settings.lr0)
    command = ["tune", "model=small-pose.yaml", *COMMAND[2:]]
    assert main([*command, "iterations=1", SPACE_WORD]) == main([*command, "iterations=2", "exist_ok=True"]) == 0
    assert main(["tune", "resume=True"]) == 0
    assert [path.name for path in Path("runs").iterdir()] == ["pose"] and len(rows(Path("runs/pose/tune"))) == 2


def test_a_name_that_is_there_is_joined_with_exist_ok(fake):
    training = fake(lambda settings: settings.lr0)
    command = [*COMMAND, SPACE_WORD, "name=shared", "exist_ok=True"]
    assert main([*command, "iterations=2"]) == 0
    assert main([*command[:-3], "name=shared", "exist_ok=True", "iterations=3"]) == 0
    assert len(training.settings) == 3 and len(rows(Path("runs/detect/shared"))) == 3


def test_without_optuna_one_line_says_what_to_install(place, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert main([*COMMAND, "iterations=1"]) == 2
    assert "pip install 'bitfalcon[tune]'" in capsys.readouterr().err and not Path("runs").exists()


def _search(folder: str, words: list[str]) -> None:
    """Search in a process of its own."""
    os.chdir(folder)
    raise SystemExit(main(words))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_kill_in_mid_trial_loses_nothing_and_two_processes_share_the_rest(place):
    """Real trainings: the killed trial goes on from its last epoch, in whichever of the two processes takes it."""
    context = multiprocessing.get_context("spawn")
    start = functools.partial(context.Process, target=_search)
    process = start(args=(str(place), [*COMMAND, "epochs=6", "iterations=2", SPACE_WORD]))
    process.start()
    last = place / FOLDER / "trials/0000/weights/last.pt"
    while process.exitcode is None and not last.is_file():
        time.sleep(0.02)
    assert process.exitcode is None, "nothing was left to kill"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    epochs_before = load_checkpoint(last).epoch + 1
    other = start(args=(str(place), ["tune", f"resume={FOLDER}"]))
    other.start()
    assert main(["tune", f"resume={FOLDER}"]) == 0
    other.join()
    assert other.exitcode == 0
    table = rows()
    assert [row["state"] for row in table] == ["killed", "complete", "complete"]
    again = next(row for row in table[1:] if row["lr0"] == table[0]["lr0"])
    assert again["epochs"] == "6" and 1 <= epochs_before < 6
    assert len((FOLDER / f"trials/{int(again['trial']):04d}/results.csv").read_text().splitlines()) == 7
