"""Resuming a run: which file is meant, which settings may change, and the state to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..config.errors import UserError
from ..config.settings import Settings, given, live, load_settings
from ..export.formats import ModelKind, model_kind
from ..models.weights.checkpoint import Checkpoint, load

# What may be changed when a run is resumed; the rest would make another run of it.
CHANGEABLE = frozenset(
    (
        "epochs",
        "time",
        "patience",
        "batch",
        "imgsz",
        "device",
        "workers",
        "cache",
        "save",
        "save_period",
        "val",
        "plots",
        "verbose",
        "close_mosaic",
        "freeze",
        "data",
        "allow_outside",
        "amp",
        "compile",
        "checkpointing",
        "sync_bn",
        "debug",
        "mosaic",
        "mixup",
        "cutmix",
        "copy_paste",
        "copy_paste_mode",
        "hsv_h",
        "hsv_s",
        "hsv_v",
        "degrees",
        "translate",
        "scale",
        "shear",
        "perspective",
        "flipud",
        "fliplr",
        "bgr",
        "multi_scale",
        "conf",
        "iou",
        "max_det",
    )
)
ADDRESS = frozenset(("mode", "task", "model", "resume"))  # which run it is


def _resumed(settings: Settings) -> tuple[Checkpoint, Path] | tuple[None, None]:
    # The interrupted run's checkpoint and its folder, wherever that lies now.
    if not settings.resume:
        return None, None
    path = to_resume(settings)
    checkpoint = load(path).to_train(path)
    if checkpoint.training is None:
        raise UserError(
            f"'{path}' holds weights without the state of a training run, as best.pt does: nothing to resume. Give the run's "
            "last.pt; or to train on from these weights, give them as model= without resume."
        )
    epochs = settings.epochs if "epochs" in settings.given else checkpoint.settings["epochs"]
    ended = checkpoint.training.get("ended", "")
    if ended and epochs <= checkpoint.settings["epochs"] and not {"patience", "time"} & settings.given:
        raise UserError(
            f"'{path}' is of a run that ended by itself after {checkpoint.epoch + 1} epochs. {ended} Give patience=0, or a "
            f"higher number of epochs than {checkpoint.settings['epochs']}, to go on."
        )
    if "epochs" not in settings.given and (settings.time or checkpoint.settings.get("time")):
        epochs = checkpoint.training.get("epochs", epochs)  # time= plans them
    if "time" in settings.given and settings.time and settings.time > (checkpoint.settings.get("time") or 0):
        epochs = checkpoint.epoch + 2  # more time: at least another epoch
    if checkpoint.epoch + 1 >= epochs:
        raise UserError(
            f"'{path}' is of a finished run ({checkpoint.epoch + 1} epochs). Give a higher number to extend it, for example "
            f"epochs={2 * (checkpoint.epoch + 1)}; or train anew from these weights with model={path} and no resume."
        )
    return checkpoint, Path(path).resolve().parent.parent


def to_resume(settings: Settings) -> Path:
    """The last.pt that is meant: a path, a run's folder, the one beside model=best.pt, or the newest."""
    if isinstance(settings.resume, str):
        path = Path(settings.resume)
        found = next((one for one in (path / "weights" / "last.pt", path / "last.pt") if one.is_file()), path)
        if found.is_dir() or model_kind(found) is not ModelKind.CHECKPOINT:
            raise UserError(
                f"resume={settings.resume}: expected a run's last.pt or its folder, for example "
                "resume=runs/detect/train/weights/last.pt; resume=True takes the newest."
            )
        return found
    if settings.model is not None and model_kind(settings.model) is ModelKind.CHECKPOINT:
        beside = Path(settings.model).with_name("last.pt")
        return beside if beside.is_file() else Path(settings.model)
    path = _newest_last(Path(settings.project or "."))
    print(f"resume=True: the newest run here is {path}")
    return path


def _newest_last(folder: Path) -> Path:
    found = [path for path in folder.rglob("last*.pt") if path.is_file()]
    if not found:
        raise UserError(
            f"resume=True: no last.pt lies in or below '{folder.resolve()}'. Give resume=<run folder>/weights/last.pt ."
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def _settings_of(resumed: Checkpoint, settings: Settings) -> Settings:
    kept = {key: value for key, value in resumed.settings.items() if key != "save_dir"}
    changed = {key: value for key, value in given(settings).items() if key not in ADDRESS and value != kept.get(key)}
    fixed = [f"{key}={changed[key]} (the run: {kept.get(key)})" for key in changed if key not in CHANGEABLE]
    if fixed:
        raise UserError(
            f"A resumed run keeps its settings; these would make another run of it: {', '.join(fixed)}. Leave them away; "
            "or start a new run from its weights with model= and no resume."
        )
    # what nobody gave stays so: workers and amp then follow the machine, and the values are the defaults anyway
    typed = resumed.training.get("given", kept)
    kept = {key: value for key, value in kept.items() if key in typed or value != live().get(key, {}).get("default")}
    return load_settings({**kept, **changed, "mode": "train", "resume": True})


def _start(resumed: Checkpoint, settings: Settings, images: int) -> Mapping[str, object]:
    """The training state of a checkpoint for these settings, the EMA's weights with it."""
    state = dict(resumed.training)
    if "batch" not in state:  # version 0.1.0 wrote it at the end of epochs only
        state |= {
            "epoch": resumed.epoch + 1,
            "batch": 0,
            "losses": torch.zeros(3),
            "boxes": 0,
            "slower": 1.0,
            "returned": 0,
            "skipped": 0,
            "plan": None,
            "epochs": settings.epochs,
        }
    if state.get("images", images) != images:
        print(f"note: the training split has {images} images; it had {state['images']} when the run stopped.")
    other = [key for key in ("batch", "imgsz", "data") if settings.as_dict()[key] != resumed.settings.get(key)]
    if state["batch"] and (other or state.get("images", images) != images):
        print(f"note: epoch {state['epoch'] + 1} begins anew: its batches are others now.")
        state |= {"batch": 0, "losses": torch.zeros(3), "boxes": 0}
    return {**state, "average": resumed.state}
