"""The order of a run's events, what their functions get, and the settings a run says and writes down."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.callbacks import EVENTS
from bitfalcon_plugin.config.errors import UserError
from tests.helpers.coloured import place  # noqa: F401  the fixture

COMMON = {
    "scale": "n",
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "device": "cpu",
    "plots": False,
    "epochs": 2,
}
VAL = ["on_val_start", "on_val_batch_start", "on_val_batch_end", "on_val_end"]
EPOCH = [
    "on_train_epoch_start",
    *["on_train_batch_start", "on_train_batch_end"] * 3,
    "on_train_epoch_end",
    *VAL,
    "on_model_save",
    "on_fit_epoch_end",
]
SILENT = ("optimizer_step", "on_before_zero_grad")


def test_events_come_in_their_order_with_the_trainer_or_the_validator(place):
    yolo, seen = YOLO("small.yaml"), []
    for event in EVENTS:
        yolo.add_callback(event, lambda subject, event=event: seen.append((event, subject)))
    yolo.train(**COMMON)
    names = [event for event, _ in seen if event not in SILENT]
    assert names == [
        "on_pretrain_routine_start",
        "on_pretrain_routine_end",
        "on_train_start",
        *EPOCH,
        *EPOCH,
        *VAL,
        "on_fit_epoch_end",
        "on_train_end",
        "teardown",
    ]
    assert [event for event, _ in seen].count("optimizer_step") == 6
    assert all((subject is yolo.trainer) is (event not in VAL) for event, subject in seen)
    validators = [subject for event, subject in seen if event == "on_val_end"]
    assert all(validator.metrics is not None and validator.args.imgsz == 64 for validator in validators)
    assert validators[-1].metrics is yolo.metrics


def test_callbacks_read_and_set_attributes(place):
    yolo, rows = YOLO("small.yaml"), []

    def look(trainer):
        rows.append(
            (
                trainer.epoch,
                trainer.epochs,
                trainer.fitness,
                trainer.best_fitness,
                trainer.tloss.tolist(),
                trainer.loss_items.tolist(),
                trainer.lr,
                trainer.metrics["metrics/mAP50(B)"],
                [name for name in trainer.metrics if name.startswith("val/")],
                trainer.last.is_file(),
            )
        )
        trainer.stop = True

    yolo.add_callback("on_fit_epoch_end", look)
    yolo.train(**{**COMMON, "epochs": 5})
    assert len(rows) == 2  # one epoch, and the final measurement
    epoch, epochs, fitness, best, losses, items, rates, ap50, val_losses, saved = rows[0]
    assert (epoch, epochs, saved) == (0, 5, True) and min(losses) > 0 and fitness == best >= 0 and 0 <= ap50 <= 1
    assert len(items) == 3 and all(item >= 0 for item in items) and list(rates) == ["lr/pg0", "lr/pg1", "lr/pg2"]
    trainer = yolo.trainer
    assert val_losses == ["val/box_loss", "val/cls_loss", "val/dfl_loss"]
    assert trainer.loss_names == ("box_loss", "cls_loss", "dfl_loss") and trainer.batch_size == COMMON["batch"]
    assert trainer.wdir == trainer.save_dir / "weights" and trainer.csv.is_file() and len(trainer.train_loader) > 0
    assert trainer.data["names"] == {0: "red", 1: "green", 2: "blue"} and trainer.data["nc"] == 3
    assert trainer.label_loss_items(prefix="val") == ["val/box_loss", "val/cls_loss", "val/dfl_loss"]
    assert trainer.label_loss_items([1.234567, 2, 3])["train/box_loss"] == 1.23457 and trainer.test_loader is not None
    validator = trainer.validator
    assert validator.names == trainer.data["names"] and validator.nc == 3 and validator.speed["inference"] > 0
    assert validator.confusion_matrix.matrix.shape == (4, 4) and validator.metrics.box.map50 == pytest.approx(ap50)
    assert yolo.trainer.args.epochs == 5 and yolo.trainer.save_dir == Path("runs/detect/train")
    assert isinstance(yolo.trainer.optimizer, torch.optim.Optimizer) and yolo.trainer.ema.updates == 3


def test_callbacks_are_added_cleared_and_checked(place, capsys):
    yolo, calls = YOLO("small.yaml"), []
    yolo.add_callback("on_train_start", lambda trainer: calls.append(1))
    yolo.add_callback("on_train_start", lambda trainer: calls.append(2))
    yolo.add_callback("on_train_end", lambda trainer: calls.append(3))
    yolo.clear_callback("on_train_end")
    yolo.train(**{**COMMON, "epochs": 1})
    assert calls == [1, 2]
    yolo.reset_callbacks()
    assert not yolo.callbacks
    yolo.add_callback("on_train_begin", print)  # never called
    assert "'on_train_begin' is no event" in capsys.readouterr().err and yolo.callbacks["on_train_begin"] == [print]
    with pytest.raises(UserError, match="takes one argument"):
        yolo.add_callback("on_train_end", "print")


def test_a_callback_that_raises_ends_the_run_with_its_error(place):
    yolo = YOLO("small.yaml")
    yolo.add_callback("on_train_epoch_start", lambda trainer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        yolo.train(**COMMON)


def test_effective_settings_are_printed_and_saved(place, capsys):
    yolo = YOLO("small.yaml")
    yolo.train(**COMMON, freeze=2, mixup=0.25, cos_lr=True, close_mosaic=1)
    out = capsys.readouterr().out
    effective = yaml.safe_load(Path("runs/detect/train/effective.yaml").read_text())
    groups = effective["optimizer"]["groups"]
    assert (
        set(groups) == {"bias", "weight", "norm"}
        and groups["norm"]["weight_decay"] == 0 < groups["weight"]["weight_decay"]
    )
    trained = sum(group["values"] for group in groups.values())
    frozen = (
        sum(p.numel() for row in yolo.trainer.model.model[:2] for p in row.parameters()) + 16
    )  # and the DFL's expectation
    assert trained == effective["parameters"] - frozen
    assert effective["optimizer"]["name"] == "AdamW" and effective["schedule"]["shape"] == "cosine"
    assert effective["schedule"]["warmup_iterations"] == 3 and effective["schedule"]["accumulate"] == 1
    assert (
        effective["augmentation"]["chances"]["mixup"] == 0.25
        and effective["augmentation"]["without_mixing_from_epoch"] == 2
    )
    assert effective["weights"] == "fresh" and effective["precision"] == "float32" and "model.0" in effective["frozen"]
    for words in ("mixup 0.25", "Groups: ", "decay 0.0005", "3 warm-up iterations", "cosine", "Frozen: model.0"):
        assert words in out
    assert yolo.trainer.ema.updates == 6
    yolo.train(**COMMON, model=str(yolo.ckpt_path))
    assert yolo.trainer.ema.updates == 6006  # the average of trained weights has a memory from the start
    assert "kept" in yaml.safe_load(Path("runs/detect/train2/effective.yaml").read_text())["weights"]
    document = yaml.safe_load(Path("data/data.yaml").read_text())
    Path("data/more.yaml").write_text(yaml.safe_dump({**document, "names": [*document["names"], "grey"]}))
    yolo.train(**{**COMMON, "data": "data/more.yaml"}, model=str(yolo.ckpt_path))
    assert yolo.trainer.ema.updates == 6  # a class branch is fresh
