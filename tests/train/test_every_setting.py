"""Every training key does something: changing it changes what a run leaves or does."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

import bitfalcon_plugin.train.setup as preparing
from bitfalcon_plugin.config.default_table import active_settings, table
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.train.records import Records
from bitfalcon_plugin.train.run import run_train
from tests.helpers.coloured import lay_out
from tests.helpers.paths import ROOT

SMALL = {
    "model": "small.yaml",
    "model_scale": "n",
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 4,
    "nbs": 8,
    "epochs": 2,
    "device": "cpu",
    "plots": False,
    "optimizer": "SGD",
    "lr0": 0.02,
    "warmup_floor": 2,
    "warmup_epochs": 1.0,
    "close_mosaic": 1,
    "project": "runs",
}


@dataclass(frozen=True)
class Outcome:
    """What a run left, and how it was set up.

    weights: a hash of them. rows: of results.csv, without epoch and time. output: what was printed. stats: the metrics.
    kernels: whether kernels were deterministic.
    """

    weights: str
    files: frozenset[str]
    rows: tuple[tuple[str, ...], ...]
    output: str
    stats: tuple[float, ...]
    recomputes: bool
    workers: int
    kernels: bool


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    lay_out(folder)
    for path in sorted((folder / "data/labels/train").iterdir())[:5]:  # half the labels with outlines
        cls, x, y, w, h = map(float, path.read_text().split())
        corners = [(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x + w / 2, y + h / 2), (x - w / 2, y + h / 2)]
        path.write_text(f"{int(cls)} " + " ".join(f"{a} {b}" for a, b in corners) + "\n")
    document = yaml.safe_load((folder / "data/data.yaml").read_text())
    (folder / "data/other.yaml").write_text(yaml.safe_dump({**document, "train": "images/val"}))
    (folder / "wide.yaml").write_text((folder / "small.yaml").read_text().replace("[32, 3, 2]", "[64, 3, 2]"))
    return folder


@pytest.fixture(scope="module")
def runs(ground):
    """Outcomes by settings, each trained once."""
    outcomes: dict[str, Outcome] = {}

    def run(**changes) -> Outcome:
        key = repr(sorted(changes.items()))
        if key not in outcomes:
            outcomes[key] = _run(changes, len(outcomes))
        return outcomes[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ground)
        yield run


def _run(changes: dict, number: int) -> Outcome:
    output, kernels = io.StringIO(), []
    original = preparing.set_training

    def spy(model, frozen):
        kernels.append(torch.are_deterministic_algorithms_enabled())
        return original(model, frozen)

    settings = load_settings({"mode": "train", **SMALL, "name": f"run{number}", **changes})
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        patch.setattr(preparing, "set_training", spy)
        result = run_train(settings, None)
    trainer = result.trainer
    digest = hashlib.sha256()
    for name, tensor in torch.load(trainer.last)["state"].items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    paths = [path for path in trainer.save_dir.rglob("*") if path.is_file()]
    # TensorBoard names its files, events.*, by the time.
    files = frozenset(str(p.relative_to(trainer.save_dir)) for p in paths if not p.name.startswith("events."))
    rows = tuple(tuple(line.split(",")[2:]) for line in (trainer.save_dir / "results.csv").read_text().splitlines())
    stats = tuple(0.0 if math.isnan(value) else value for value in result.metrics.stats.values())
    workers, model = trainer.loader._loader.num_workers, trainer.model
    text = output.getvalue()
    return Outcome(digest.hexdigest(), files, rows, text, stats, model.checkpointing, workers, kernels[0])


# key -> (value, settings of both runs beside SMALL): the weights differ
WEIGHTS = {
    "model": ("wide.yaml", {}),
    "model_scale": ("s", {}),
    "data": ("data/other.yaml", {}),
    "epochs": (1, {}),
    "batch": (5, {}),
    "imgsz": (96, {}),
    "optimizer": ("Adam", {}),
    "seed": (1, {}),
    "single_cls": (True, {}),
    "rect": (True, {}),
    "cos_lr": (True, {"epochs": 3}),
    "close_mosaic": (0, {}),
    "amp": ("bf16", {}),
    "fraction": (0.5, {}),
    "freeze": (2, {}),
    "multi_scale": (0.5, {}),
    "classes": ([0], {}),
    "lr0": (0.01, {}),
    "lrf": (0.5, {}),
    "momentum": (0.5, {}),
    "weight_decay": (0.05, {}),
    "warmup_epochs": (0.0, {}),
    "warmup_momentum": (0.1, {}),
    "warmup_bias_lr": (0.1, {}),
    "warmup_floor": (100, {"warmup_epochs": 0.1}),
    "box": (1.0, {}),
    "cls": (2.0, {}),
    "dfl": (0.1, {}),
    "cls_pw": (1.0, {}),
    "nbs": (4, {}),
    "hsv_h": (0.2, {}),
    "hsv_s": (0.1, {}),
    "hsv_v": (0.1, {}),
    "degrees": (30.0, {}),
    "translate": (0.3, {}),
    "scale": (0.1, {}),
    "shear": (10.0, {}),
    "perspective": (0.001, {}),
    "flipud": (1.0, {}),
    "fliplr": (0.0, {}),
    "bgr": (1.0, {}),
    "mosaic": (0.0, {}),
    "mixup": (1.0, {}),
    "cutmix": (1.0, {"mosaic": 0.0}),
    "copy_paste": (1.0, {"close_mosaic": 0}),
    "copy_paste_mode": ("mixup", {"copy_paste": 1.0, "close_mosaic": 0}),
    "time": (1e-9, {}),
}


@pytest.mark.parametrize("key", WEIGHTS)
def test_changing_it_changes_the_weights(runs, key):
    value, around = WEIGHTS[key]
    one, two = runs(**around), runs(**around, **{key: value})
    assert one.weights != two.weights


def test_the_same_settings_give_the_same_weights(runs):
    assert runs().weights == runs(name="again").weights and runs().rows == runs(name="again").rows


def test_patience_ends_a_run(runs, monkeypatch):
    def falls(records, epoch, metrics):  # the first epoch is the best
        records.best_fitness, records.best_epoch = 1.0, 0
        return epoch == 0

    monkeypatch.setattr(Records, "judge", falls)
    short, whole = runs(epochs=4, patience=2), runs(epochs=4, patience=0)
    assert (len(short.rows), len(whole.rows)) == (1 + 3, 1 + 4)  # the row of names, and a row for each epoch
    assert "Stopping: no better fitness in 2 epochs" in short.output


@pytest.mark.parametrize(
    "key, value, files",
    [
        ("save_period", 1, {"weights/epoch0.pt", "weights/epoch1.pt"}),
        ("plots", True, {"train_batch0.jpg", "val_batch0_pred.jpg", "val_batch0_labels.jpg"}),
    ],
)
def test_changing_it_adds_files(runs, key, value, files):
    assert runs(**{key: value}).files >= runs().files | files and not runs().files & files
    assert runs(**{key: value}).weights == runs().weights


def test_save_false_leaves_fewer_files_and_the_same_weights(runs):
    assert runs(save=False).files == runs().files - {"weights/best.pt"} and runs(save=False).weights == runs().weights


def test_names_and_places(runs):
    runs(name="mine", project="elsewhere")
    assert Path("elsewhere/mine/weights/last.pt").is_file()
    runs(name="mine", project="elsewhere", exist_ok=True)
    assert not Path("elsewhere/mine2").exists()
    runs(name="mine", project="elsewhere", exist_ok=False, verbose=True)
    assert Path("elsewhere/mine2").is_dir()


def test_val_false_measures_the_last_epoch_alone(runs):
    assert [row[3] == "nan" for row in runs(val=False).rows[1:]] == [True, False]
    assert not any(row[3] == "nan" for row in runs().rows[1:])


@pytest.mark.parametrize("key, value", [("iou", 0.01), ("max_det", 1), ("conf", 1.0)])
def test_suppression_of_the_final_measurement(runs, key, value):
    runs(name="learned", epochs=30, lr0=0.05, val=False)
    again = {"pretrained": "runs/learned/weights/last.pt", "epochs": 1, "lr0": 0.001}
    plain, other = runs(**again), runs(**again, **{key: value})
    assert plain.weights == other.weights and plain.stats != other.stats


def test_keys_that_change_how_but_not_what(runs):
    plain = runs()
    recomputed, read = runs(checkpointing=True), runs(workers=1)
    loose, cached = runs(deterministic=False), runs(cache="ram")
    assert recomputed.recomputes and not plain.recomputes
    assert (read.workers, plain.workers) == (1, 0)
    assert plain.kernels and not loose.kernels
    assert "cache" in cached.output.lower() and "cache" not in plain.output.lower()
    assert {outcome.weights for outcome in (plain, recomputed, read, cached)} == {plain.weights}
    quiet = runs(verbose=False)
    assert " red" in plain.output and " red" not in quiet.output


def test_what_cannot_apply_is_said_once(runs):
    for changes, words in (
        ({"amp": "fp16"}, "float32 on cpu"),
        ({"batch": -1}, "using 16 on cpu"),
        ({"sync_bn": True}, "sync_bn=True is for several GPUs"),
    ):
        assert runs(**changes).output.count(words) == 1, changes
    assert runs(batch=-1).weights != runs().weights


def test_pretrained_and_cls_remap(runs, ground):
    first = runs(name="teacher")
    weights = "runs/teacher/weights/best.pt"
    taught = runs(pretrained=weights)
    assert taught.weights != first.weights and "kept" in taught.output
    document = yaml.safe_load((ground / "data/data.yaml").read_text())
    (ground / "data/turned.yaml").write_text(yaml.safe_dump({**document, "names": ["blue", "green", "red"]}))
    one, two = (runs(pretrained=weights, data="data/turned.yaml", cls_remap=value) for value in (True, False))
    assert one.weights != two.weights and "remapped  3 classes" in one.output and "remapped  0 classes" in two.output


def test_pretrained_weights_of_another_graph(runs, ground):
    runs(name="teacher")
    weights = "runs/teacher/weights/best.pt"
    fresh, taught = runs(model="wide.yaml"), runs(model="wide.yaml", pretrained=weights)
    assert taught.weights != fresh.weights
    assert re.search(r"kept      \d+ of \d+ tensors .* the first that does not: model\.\d+\.", taught.output)
    with pytest.raises(UserError, match="do not fit wide.yaml"):
        runs(model="wide.yaml", pretrained=weights, strict=True)


HERE = """patience exist_ok name project save save_period plots val conf iou max_det cache workers deterministic
    checkpointing verbose sync_bn pretrained cls_remap strict"""
TESTED_BY = {
    "train/test_every_setting.py": HERE,
    "predict/test_sources.py": "allow_url",
    "predict/test_run.py": "json",
    "config/test_devices.py": "device",
    "models/inference/test_prepare.py": "compile",
    "train/test_resume.py": "resume",
    "house/test_yamls.py": "variant",
    "models/weights/test_foreign.py": "to out",
    "bit/test_run.py": "bit keep step by max_drop",
    "models/weights/test_packed_layout.py": "fmt",
    "data/formats/test_dataset_yaml.py": "allow_outside",
    "test_cli.py": "debug",
    "train/test_segment.py": "mask_ratio",
    "train/test_pose.py": "pose kobj",
    "train/test_obb.py": "angle",
    "data/convert/test_tiling.py": "rates",
    "train/test_bad_images.py": "on_bad_image",
    "data/convert/test_dota_folder.py": "difficult",
    "data/test_segment_labels.py": "boxes_without_masks",
    "tasks/test_segment_loss.py": "overlap_mask",
    "data/augmentation/test_crop_recipe.py": "auto_augment erasing",
    "train/test_setup.py": "dropout",
    "train/test_loggers.py": "loggers",
    "train/test_machines.py": "rank_timeout",
}


def test_no_training_key_is_forgotten():
    groups = yaml.safe_load((cfg_dir() / "default.yaml").read_text(encoding="utf-8"))
    keys = {key for name in ("train", "hyperparameters", "bitfalcon") for key in groups[name]} & set(active_settings())
    assert all((ROOT / "tests" / file).is_file() for file in TESTED_BY)
    tested = {key for text in TESTED_BY.values() for key in text.split()}
    assert keys - WEIGHTS.keys() - tested == set()
    assert set(table()) > keys
