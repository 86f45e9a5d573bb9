"""A classifier trained on small pictures: what is learned, what is written, and what each setting does."""

from __future__ import annotations

import copy
import csv
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.callbacks import Events
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.tasks import CLASSIFY, TASKS
from bitfalcon_plugin.train.run import Result, run_train
from bitfalcon_plugin.train.steps import Steps
from tests.helpers.classed import classed, lay_out  # noqa: F401  the fixture

SMALL = {
    "mode": "train",
    "model": "small-cls.yaml",
    "model_scale": "n",
    "data": "data",
    "imgsz": 32,
    "batch": 4,
    "nbs": 4,
    "epochs": 2,
    "device": "cpu",
    "plots": False,
    "optimizer": "AdamW",
    "lr0": 0.005,
    "warmup_floor": 0,
    "project": "runs",
    "name": "r",
}
CALM = {"auto_augment": "none", "erasing": 0.0, "scale": 0.2, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
COLUMNS = "epoch time train/loss metrics/accuracy_top1 metrics/accuracy_top5 val/loss lr/pg0 lr/pg1 lr/pg2"
FILES = (
    "args.yaml confusion_matrix.png confusion_matrix_normalized.png effective.yaml results.csv results.png "
    "train_batch0.jpg train_batch1.jpg train_batch2.jpg val_batch0_labels.jpg val_batch0_pred.jpg "
    "val_batch1_labels.jpg val_batch1_pred.jpg weights worst.csv"
)


def train(events: Events | None = None, steps: Steps = Steps(), **given) -> Result:
    return run_train(load_settings({**SMALL, **given}), None, events, steps)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of twenty epochs, and its result."""
    folder = tmp_path_factory.mktemp("trained")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = train(epochs=20, plots=True, project=str(folder / "runs"), **CALM)
    return folder, result


def test_classes_are_learned(trained):
    folder, result = trained
    assert result.metrics.top1 == 1 and result.metrics.fitness == 1
    found = YOLO(result.best).predict(folder / "data/val/red", verbose=False)  # imgsz of the run
    assert [each.names[each.probs.top1] for each in found] == ["red", "red"]
    assert found[0].input_shape == (32, 32)


def test_the_files_of_a_run(trained):
    folder, result = trained
    run = folder / "runs/r"
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    assert sorted(path.name for path in run.iterdir()) == FILES.split()  # no worst.jpg: there are no mistakes
    with open(run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS.split() and len(rows) == 20
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    checkpoint = load_checkpoint(result.best)
    assert set(checkpoint.metrics) == {*COLUMNS.split()[3:6], "fitness"}
    assert checkpoint.graph.names == {0: "blue", 1: "green", 2: "red"} and checkpoint.settings["task"] == "classify"
    assert result.metrics.names == checkpoint.graph.names and result.metrics.save_dir == run


def test_val_of_the_best_weights_repeats_the_numbers_of_the_run(trained, capsys):
    folder, result = trained
    metrics = YOLO(result.best).val(
        data=folder / "data", project=str(folder / "runs"), name="v", save_json=True, save_txt=True, plots=False
    )
    assert metrics.results_dict == result.metrics.results_dict
    assert metrics.losses == pytest.approx(result.metrics.losses, rel=1e-6)
    assert (folder / "runs/v/predictions.json").is_file()
    lines = (folder / "runs/v/labels/red0.txt").read_text().splitlines()
    assert len(lines) == 3 and lines[0].endswith(" red")
    out = capsys.readouterr().out
    assert "6 images in 3 classes" in out and "none of 6 has a wrong class" in out and "top1_acc" in out


def test_a_part_of_the_classes_is_measured_by_their_names(trained, tmp_path, capsys):
    folder, result = trained
    for split in ("train", "val"):
        for name in ("red", "green"):
            shutil.copytree(folder / "data" / split / name, tmp_path / "some" / split / name)
    metrics = YOLO(result.best).val(data=tmp_path / "some", plots=False)
    assert metrics.counts.tolist() == [0, 2, 2] and metrics.top1 == 1 and len(metrics.table().splitlines()) == 4
    assert "2 of the model's 3 classes; they are matched by name" in capsys.readouterr().err
    (tmp_path / "order.yaml").write_text(
        f"path: {folder / 'data'}\ntrain: train\nval: val\nnames: [red, green, blue]\n"
    )
    assert YOLO(result.best).val(data=tmp_path / "order.yaml", plots=False).top1 == 1


def test_a_step_follows_the_mean_cross_entropy_of_the_batch(classed):
    """It is not multiplied by the number of images."""
    batches, checked = [], []

    def keep(own, trainer, batch, indices):
        batches.append(batch)
        return batch

    def compare(trainer):
        twin = copy.deepcopy(trainer.model).train()
        F.cross_entropy(twin(batches[-1].images)["logits"], batches[-1].labels.classes).backward()
        ours, others = (torch.cat([p.grad.flatten() for p in net.parameters()]) for net in (trainer.model, twin))
        assert others.norm() < 10  # so that nothing was clipped
        torch.testing.assert_close(ours, others, rtol=1e-4, atol=1e-6)
        checked.append(len(batches[-1].images))

    events = Events()
    events.callbacks["optimizer_step"].append(compare)
    train(events, Steps(batch=keep), epochs=1, optimizer="SGD", lr0=0.001)
    assert checked == [4, 4, 4]


def results_of(name: str) -> list[list[str]]:
    return [line.split(",")[2:] for line in Path(f"runs/{name}/results.csv").read_text().splitlines()]


def weights_of(name: str) -> dict[str, torch.Tensor]:
    content = torch.load(f"runs/{name}/weights/last.pt")
    return {**content["state"], **{f"raw {key}": value for key, value in content["training"]["weights"].items()}}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_that_is_stopped_goes_on_with_equal_weights(classed):
    """With dropout and every augmentation: none of them depends on what was drawn before."""
    train(name="whole", dropout=0.2, epochs=3)
    calls = []

    def stop(trainer):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    events = Events()
    events.callbacks["on_train_batch_end"].append(stop)
    with pytest.raises(SystemExit):
        train(events, name="cut", dropout=0.2, epochs=3)
    assert main(["train", "resume=runs/cut/weights/last.pt"]) == 0
    assert results_of("whole") == results_of("cut") and same(weights_of("whole"), weights_of("cut"))


def test_a_poisoned_batch_costs_one_step(classed, capsys, monkeypatch):
    calls = []

    def poisoned(*args, **kwargs):
        losses = CLASSIFY.loss(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            return losses
        calls.append(1)
        return {name: loss * float("nan") for name, loss in losses.items()} if len(calls) == 2 else losses

    monkeypatch.setitem(TASKS, "classify", replace(CLASSIFY, loss=poisoned))
    result = train()
    assert result.trainer.guard.skipped == 1 and "step left out" in capsys.readouterr().err
    assert all(value.isfinite().all() for value in weights_of("r").values())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function that trains an epoch with settings; the sum of the best weights."""
    folder, known = tmp_path_factory.mktemp("runs"), {}
    lay_out(folder)
    for index in range(3):
        (folder / f"data/train/red/red{index}.png").unlink()  # so that weights of classes differ

    def weights(**given) -> float:
        key = str(given)
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                state = load_checkpoint(train(epochs=1, **given).best).state
            known[key] = sum(float(tensor.double().abs().sum()) for tensor in state.values())
        return known[key]

    return weights


@pytest.mark.parametrize(
    "given",
    [
        {"dropout": 0.5},
        {"cls_pw": 1.0},
        {"auto_augment": "none"},
        {"erasing": 0.0},
        {"scale": 0.1},
        {"flipud": 1.0},
        {"freeze": 3},
        {"fraction": 0.5},
        {"amp": "bf16"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_setting_changes_the_weights(runs, given):
    assert runs(**given) != runs()


def test_what_means_nothing_changes_nothing_and_is_said(runs, capsys):
    assert runs(mosaic=0.3, mixup=0.5, box=2.0, degrees=9.0, multi_scale=True, close_mosaic=1) == runs()
    told = capsys.readouterr().err
    assert all(f"{key}=" in told for key in ("mosaic", "mixup", "box", "degrees", "multi_scale", "close_mosaic"))


def test_images_are_224_pixels_where_nothing_else_is_said(classed, capsys):
    settings = load_settings(
        {**{key: value for key, value in SMALL.items() if key != "imgsz"}, "epochs": 1, "batch": 2}
    )
    result = run_train(settings, None)
    assert "images 12  size 224" in capsys.readouterr().out
    assert yaml.safe_load(Path("runs/r/args.yaml").read_text())["imgsz"] == 224
    assert load_checkpoint(result.best).settings["imgsz"] == 224


def test_a_detection_backbone_is_taken_over(classed, capsys):
    from tests.helpers.coloured import GRAPH
    from tests.helpers.coloured import lay_out as lay_out_boxes

    (classed / "boxes").mkdir()
    lay_out_boxes(classed / "boxes")
    four = GRAPH.replace("  - [-1, 1, Conv, [256, 3, 2]]\n", "").replace("[[3, 4]", "[[2, 3]")
    (classed / "boxes/small.yaml").write_text(four)
    detector = run_train(
        load_settings({**SMALL, "model": "boxes/small.yaml", "data": "boxes/data/data.yaml", "name": "d", "epochs": 1}),
        None,
    )
    capsys.readouterr()
    result = train(pretrained=str(detector.best), epochs=1, freeze=4, lr0=0.001)
    assert str(detector.best) in capsys.readouterr().out
    before, after = (load_checkpoint(each.best).state for each in (detector, result))
    assert all(torch.equal(before[key], value) for key, value in after.items() if key.startswith("model.3."))
    norm = result.trainer.model.model[0].bn
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)


def test_biases_of_fresh_weights_begin_fast(classed):
    """Those of weights that are taken over do not, nor where the rate is given; a resumed run keeps its rate."""

    def bias_lr(**given) -> float:
        run = train(epochs=1, **given)
        return run.trainer.plan.warmup_bias_lr

    assert bias_lr() == bias_lr(optimizer="auto") == 0.1 and bias_lr(warmup_bias_lr=0.05) == 0.05
    assert bias_lr(pretrained="runs/r/weights/best.pt") == 0.0
    tuned = YOLO("runs/r/weights/best.pt")
    options = {key: value for key, value in SMALL.items() if key not in ("mode", "model", "model_scale", "name")}
    tuned.train(**{**options, "epochs": 2, "name": "tuned"})
    assert tuned.trainer.plan.warmup_bias_lr == 0.0
    result = run_train(load_settings({"mode": "train", "resume": "runs/tuned/weights/last.pt", "epochs": 3}), None)
    assert result.trainer.plan.warmup_bias_lr == 0.0


def test_one_class_and_wrong_data_are_mistakes_of_the_user(classed):
    with pytest.raises(UserError, match="data"):
        train(data="nothing/here")
    with pytest.raises(UserError, match="choices|expected"):
        train(auto_augment="everything")
    assert not Path("runs").exists()
