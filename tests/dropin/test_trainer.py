"""Trainers that scripts construct and subclass: each method that is replaced acts, and none changes the numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.models.yolo.detect import DetectionTrainer, DetectionValidator
from tests.helpers.coloured import lay_out, place  # noqa: F401  the fixture

DATA = {"data": "data/data.yaml", "imgsz": 64, "batch": 4, "device": "cpu", "plots": False, "scale": "n"}
RUN = {"model": "small.yaml", "epochs": 1, **DATA}


def run(cls=DetectionTrainer, **overrides):
    trainer = cls(overrides={**RUN, **overrides})
    assert trainer.train() is None
    return trainer


def rows(trainer) -> list[dict[str, str]]:
    with open(trainer.csv, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The weights of YOLO.train, and those of a trainer that replaces nothing, with the trainer."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plain")
        patch.chdir(folder)
        lay_out(folder)
        yolo = YOLO("small.yaml")
        yolo.train(epochs=2, **DATA)
        trainer = run(epochs=2, save_dir=str(folder / "mine"))
        return yolo.trainer.model.state_dict(), trainer


def test_a_trainer_that_replaces_nothing_ends_with_the_weights_of_train(plain):
    weights, trainer = plain
    state = trainer.model.state_dict()
    assert state.keys() == weights.keys() and all(state[name].equal(weights[name]) for name in weights)


def test_what_scripts_read_of_a_trainer(plain):
    trainer = plain[1]
    assert trainer.save_dir.name == "mine" and trainer.best.is_file() and trainer.last.is_file()
    assert trainer.csv.is_file() and trainer.wdir == trainer.save_dir / "weights"
    assert trainer.args.epochs == trainer.epochs == 2 and trainer.batch_size == 4 and str(trainer.device) == "cpu"
    assert trainer.data["nc"] == 3 and trainer.data["names"] == {0: "red", 1: "green", 2: "blue"}
    assert Path(trainer.data["train"]).is_dir() and trainer.trainset == trainer.data["train"]
    assert set(trainer.metrics) == {
        "metrics/precision(B)",
        "metrics/recall(B)",
        "metrics/mAP50(B)",
        "metrics/mAP50-95(B)",
    }
    assert trainer.ema.updates >= 1 and set(trainer.lr) == {"lr/pg0", "lr/pg1", "lr/pg2"}
    assert trainer.tloss.shape == (3,) and trainer.loss > 0 and not trainer.amp and trainer.fitness >= 0
    assert trainer.accumulate >= 1 and trainer.lf(0) == 1 and trainer.lf(1) < 1
    assert trainer.stopper.patience == 100 and trainer.stopper.best_epoch in (0, 1)
    assert len(trainer.train_loader) == 3 and len(trainer.train_loader.dataset) == 10
    assert trainer.label_loss_items(torch.tensor([1.0, 2, 3]), "val")["val/cls_loss"] == 2
    assert len(trainer.read_results_csv()["epoch"]) == 2 and "box_loss" in trainer.progress_string()
    batch = next(iter(trainer.train_loader))
    assert batch["img"].shape[1:] == (3, 64, 64) and len(batch["cls"]) == len(batch["bboxes"]) == len(
        batch["batch_idx"]
    )
    assert isinstance(trainer.validator, DetectionValidator) and trainer.validator.seen == 4
    assert trainer.result.metrics.results_dict == trainer.validator.metrics.results_dict


def test_callbacks_get_the_trainer_and_may_stop_it(place):
    seen = []
    trainer = DetectionTrainer(overrides={**RUN, "epochs": 3})
    trainer.add_callback("on_train_epoch_start", lambda each: seen.append((each, each.epoch)))
    trainer.add_callback("on_val_end", lambda validator: seen.append((validator, "val")))
    trainer.add_callback("on_fit_epoch_end", lambda each: seen.append((each, sorted(each.metrics))))
    trainer.add_callback("on_train_epoch_end", lambda each: setattr(each, "stop", True))
    trainer.train()
    assert [each for each, _ in seen] == [trainer, trainer.validator, trainer, trainer.validator, trainer]
    assert seen[0][1] == 0 and "val/box_loss" in seen[2][1] and len(seen[2][1]) == 7 and len(seen[4][1]) == 4


class Everything(DetectionTrainer):
    """Replaces what can be replaced by itself, and notes each call."""

    def __init__(self, *args, **kwargs):
        self.calls = []
        super().__init__(*args, **kwargs)

    def get_model(self, cfg=None, weights=None, verbose=True):
        self.calls.append("get_model")
        return super().get_model(cfg, weights, verbose)

    def set_model_attributes(self):
        super().set_model_attributes()
        self.model.mark = "set"

    def preprocess_batch(self, batch):
        assert batch["img"].dtype == torch.uint8
        batch = super().preprocess_batch(batch)
        self.calls.append("preprocess_batch")
        batch["img"] = batch["img"] * 0
        return batch

    def get_validator(self):
        self.calls.append("get_validator")
        return super().get_validator()

    def build_optimizer(self, model, name="auto", lr=0.001, momentum=0.9, decay=1e-5, iterations=1e5):
        self.calls.append("build_optimizer")
        heads = [p for key, p in model.named_parameters() if p.requires_grad and ".5." in key]
        others = [p for key, p in model.named_parameters() if p.requires_grad and ".5." not in key]
        return torch.optim.SGD([{"params": heads, "lr": 0.02}, {"params": others, "lr": 0.01}], momentum=0.5)

    def optimizer_step(self):
        self.calls.append("optimizer_step")
        super().optimizer_step()

    def save_model(self):
        self.calls.append("save_model")
        super().save_model()

    def save_metrics(self, metrics):
        super().save_metrics({**metrics, "mine/number": 7})

    def label_loss_items(self, loss_items=None, prefix="train"):
        return {f"{prefix}/{name}": 3.0 for name in self.loss_names}

    def progress_string(self):
        return "HEADER OF THE SCRIPT"

    def validate(self):
        metrics, fitness = super().validate()
        return {**metrics, "mine/score": 5.0}, 42.0

    def final_eval(self):
        self.calls.append("final_eval")
        super().final_eval()


def test_methods_that_are_replaced_act(place, capsys):
    trainer = run(Everything)
    assert trainer.model.mark == "set" and trainer.ema.ema.mark == "set"
    once = [name for name in trainer.calls if name not in ("preprocess_batch", "optimizer_step")]
    assert once == ["get_model", "get_validator", "build_optimizer", "save_model", "final_eval"]
    assert trainer.calls.count("preprocess_batch") == 3 and trainer.calls.count("optimizer_step") >= 1
    assert "HEADER OF THE SCRIPT" in capsys.readouterr().out
    (row,) = rows(trainer)
    assert (row["mine/number"], row["mine/score"], row["train/box_loss"]) == ("7", "5", "3")
    assert trainer.best_fitness == 42
    assert trainer.optimizer.param_groups[0]["lr"] == 2 * trainer.optimizer.param_groups[1]["lr"] > 0
    assert type(trainer.optimizer) is torch.optim.SGD and float(row["lr/pg0"]) == 2 * float(row["lr/pg1"])


def test_a_step_of_the_script_is_the_only_one(place):
    class Frozen(DetectionTrainer):
        def optimizer_step(self):
            self.optimizer.zero_grad()

    class Fresh(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):
            self.first = super().get_model(cfg, weights, verbose)
            self.before = {name: value.clone() for name, value in self.first.named_parameters()}
            return self.first

    class Both(Frozen, Fresh):
        pass

    trainer = run(Both)
    assert trainer.model is trainer.first.plain()
    assert all(value.equal(trainer.before[name]) for name, value in trainer.model.named_parameters())


def test_pictures_are_drawn_by_the_script(place):
    class Drawing(DetectionTrainer):
        drawn, told = (), ()

        def plot_training_samples(self, batch, ni):
            self.drawn = (*self.drawn, (ni, tuple(batch["img"].shape)))

        def plot_training_labels(self):
            self.drawn = (*self.drawn, "labels")

        def plot_metrics(self):
            self.drawn = (*self.drawn, "metrics")

        def on_plot(self, name, data=None):
            self.told = (*self.told, Path(name).name)

    trainer = run(Drawing, plots=True)
    assert trainer.drawn == ("labels", (0, (4, 3, 64, 64)), (1, (4, 3, 64, 64)), (2, (2, 3, 64, 64)), "metrics")
    names = {path.name for path in trainer.save_dir.iterdir()}
    assert not names & {"labels.jpg", "train_batch0.jpg", "results.png"}


def test_get_dataset_of_the_script(place):
    class Renamed(DetectionTrainer):
        def get_dataset(self):
            data = super().get_dataset()
            data["names"] = {0: "r", 1: "g", 2: "b"}
            return data

    assert run(Renamed).model.names == {0: "r", 1: "g", 2: "b"}

    class OfOld(DetectionTrainer):
        def get_dataset(self):
            self.data = {"train": "data/images/train", "val": "data/images/val", "names": ["r", "g", "b"], "nc": 3}
            return self.data["train"], self.data["val"]

    trainer = run(OfOld)
    assert trainer.model.names == {0: "r", 1: "g", 2: "b"} and trainer.testset == "data/images/val"


def test_a_method_that_no_run_calls_is_refused(place):
    class Own(DetectionTrainer):
        def _do_train(self, world_size=1):
            pass

    with pytest.raises(UserError, match="_do_train.*optimizer_step"):
        Own(overrides=RUN)


def test_a_step_outside_of_a_run_says_so(place):
    with pytest.raises(UserError, match="train\\(\\) calls it"):
        DetectionTrainer(overrides=RUN).optimizer_step()


def test_a_run_is_resumed_with_its_methods(place):
    class Stopping(DetectionTrainer):
        steps = 0

        def get_model(self, cfg=None, weights=None, verbose=True):
            self.resumes = weights is not None
            return super().get_model(cfg, weights, verbose)

        def optimizer_step(self):
            self.steps += 1
            super().optimizer_step()

    options = {"epochs": 3, "nbs": 4, "warmup_epochs": 0}
    stopped = Stopping(overrides={**RUN, **options})
    stopped.add_callback("on_fit_epoch_end", lambda trainer: setattr(trainer, "stop", True))
    stopped.train()
    whole = run(**options)
    resumed = Stopping(overrides={"model": str(stopped.last), "resume": True, "device": "cpu"})
    assert resumed.epochs == 3 and resumed.args.nbs == 4 and resumed.data["nc"] == 3
    resumed.train()
    assert resumed.save_dir.resolve() == stopped.save_dir.resolve() and resumed.resumes
    assert len(rows(resumed)) == 3 and (stopped.steps, resumed.steps) == (3, 6)
    state, expected = resumed.model.state_dict(), whole.model.state_dict()
    assert all(state[name].equal(expected[name]) for name in expected)
