"""Resuming a run: which run is meant, which settings may change, and the state that training goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..config.default_table import active_settings, keys_with
from ..config.errors import UserError, blaming
from ..config.notes import print_note
from ..config.printable import say
from ..config.settings import Settings, load_settings
from ..config.user_settings import folder as user_folder
from ..export.formats import ModelKind, model_kind
from ..models.weights.checkpoint import Checkpoint, load_checkpoint
from ..val.run import LAST_FILE

RUN_SELECTORS = frozenset(("mode", "task", "model", "resume"))  # which run is meant


def resumed_run(settings: Settings) -> tuple[Checkpoint, Path]:
    """Open the last.pt that resume= means; returns it with the run's folder, wherever that lies now.

    Raises UserError for a file without training state, and for a run that is finished and measured under these
    settings.
    """
    path = to_resume(settings)
    checkpoint = load_checkpoint(path).to_train(path)
    with blaming(path):
        _check_unfinished(checkpoint, path, settings)
    return checkpoint, path.resolve().parent.parent


def _check_unfinished(checkpoint: Checkpoint, path: Path, settings: Settings) -> None:
    if checkpoint.training is None:
        raise UserError(
            f"'{path}' holds weights without the state of a training run, as best.pt does: nothing to resume. Give the "
            "run's last.pt; or to train on from these weights, give them as model= without resume."
        )
    if not (path.resolve().parent.parent / LAST_FILE).is_file():
        return  # it was ended before or during its final measurement
    before = checkpoint.settings["epochs"]
    epochs = settings.epochs if "epochs" in settings.given else before
    ended = checkpoint.training.get("ended", "")
    if ended and epochs <= before and not {"patience", "time"} & settings.given:
        raise UserError(
            f"'{path}' is of a run that ended by itself after {checkpoint.epoch + 1} epochs. {ended} Give patience=0, "
            f"or a higher number of epochs than {before}, to go on."
        )
    if "epochs" not in settings.given and (settings.time or checkpoint.settings.get("time")):
        epochs = checkpoint.training.get("epochs", epochs)  # time= plans the number of epochs
    if "time" in settings.given and settings.time and settings.time > (checkpoint.settings.get("time") or 0):
        epochs = checkpoint.epoch + 2  # more time: at least another epoch
    if checkpoint.epoch + 1 >= epochs:
        raise UserError(
            f"'{path}' is of a finished run ({checkpoint.epoch + 1} epochs). Give a higher number to extend it, for "
            f"example epochs={2 * (checkpoint.epoch + 1)}; or train anew from these weights with model={path} and no "
            "resume."
        )


def is_finished(checkpoint: Checkpoint) -> bool:
    """Whether the run of a last.pt trained its last epoch, or was ended by patience."""
    state = checkpoint.training
    if state is None:
        return False
    return bool(state.get("ended")) or checkpoint.epoch + 1 >= state.get("epochs", checkpoint.settings["epochs"])


def to_resume(settings: Settings) -> Path:
    """The last.pt that is meant: a path, a run's folder, the last.pt in the folder of model=best.pt, or the newest."""
    if isinstance(settings.resume, str):
        given_path = Path(settings.resume)
        candidates = (given_path / "weights" / "last.pt", given_path / "last.pt")
        path = next((path for path in candidates if path.is_file()), given_path)
        if path.is_dir() or model_kind(path) is not ModelKind.CHECKPOINT:
            raise UserError(
                f"resume={settings.resume}: expected a run's last.pt or its folder, for example "
                "resume=runs/detect/train/weights/last.pt; resume=True takes the newest."
            )
        return path
    if settings.model is not None and model_kind(settings.model) is ModelKind.CHECKPOINT:
        last = Path(settings.model).with_name("last.pt")
        return last if last.is_file() else Path(settings.model)
    folder = Path(settings.project or user_folder("runs_dir") or ".")
    path = newest(folder.rglob("last*.pt"))
    if path is None:
        raise UserError(
            f"resume=True: no last.pt lies in or below '{folder.resolve()}'. Give resume=<run folder>/weights/last.pt ."
        )
    say(f"resume=True: the newest run here is {path}")
    return path


def newest(paths: Iterable[Path]) -> Path | None:
    """The file that was written last; None where `paths` holds no file."""
    return max((path for path in paths if path.is_file()), key=lambda path: path.stat().st_mtime, default=None)


def resumed_settings(checkpoint: Checkpoint, settings: Settings) -> Settings:
    """The settings of a run that is resumed: the recorded ones, with what the user changed.

    Raises UserError for changes of settings that may not change (`changed_settings`).
    """
    typed = settings.given_values(without=RUN_SELECTORS)
    recorded = _recorded(checkpoint, typed)
    changed = changed_settings(typed, recorded, "run")
    # a setting that nobody gave stays not given: workers and amp then follow the machine, and the value is the default
    given_before = checkpoint.training.get("given", recorded)
    unchanged = {key: value for key, value in recorded.items() if key in given_before or value != _default(key)}
    try:
        return load_settings({**unchanged, **changed, "mode": "train", "resume": True})
    except UserError as error:
        raise UserError(f"The run that is resumed was not made with settings that are legal here. {error}") from error


def changed_settings(typed: Mapping[str, object], recorded: Mapping[str, object], kind: str) -> dict[str, object]:
    """The typed settings that differ from the recorded ones (a setting without a record has its default).

    kind: what is resumed, "run" or "experiment". Raises UserError with all changes of settings that may not change
    then (column `resume` of cfg/default.yaml).
    """
    changeable = keys_with("resume", kind)
    before = {key: recorded.get(key, _default(key)) for key in typed}
    changed = {key: value for key, value in typed.items() if value != before[key]}
    fixed = [f"{key}={value} (the {kind}: {before[key]})" for key, value in changed.items() if key not in changeable]
    if fixed:
        raise UserError(
            f"A resumed {kind} keeps its settings; these would make another {kind} of it: {', '.join(fixed)}. Leave "
            f"them away; or start a new {kind} with model= and without resume."
        )
    return changed


def recorded_settings(checkpoint: Checkpoint, typed: Mapping[str, object]) -> Settings:
    """The settings that a run was trained with, to measure its weights as the run does at its end.

    typed: what the user gives now, of which the rights count.
    """
    rights = {key: typed[key] for key in keys_with("typed", "run") if key in typed}
    return load_settings({**_recorded(checkpoint, typed), **rights, "mode": "train", "resume": False})


def _recorded(checkpoint: Checkpoint, typed: Mapping[str, object]) -> dict[str, object]:
    # without save_dir, which is no setting, and keys that are no settings any more
    known = {key: value for key, value in checkpoint.settings.items() if key in active_settings() and key != "cfg"}
    return without_rights(known, typed)


def without_rights(recorded: Mapping[str, object], typed: Mapping[str, object]) -> dict[str, object]:
    """Settings of a file without those that give rights, as allow_outside= does: the file may be a stranger's.

    typed: what the user gives now; a note names a right that is not among it.
    """
    rights = keys_with("typed", "run")
    for key in rights:
        if key not in typed and recorded.get(key, _default(key)) != _default(key):
            text = f"{key}={recorded[key]} stands in the file that is resumed, and is not taken from there"
            print_note(f"{text}. If you mean it, type it again: {key}={recorded[key]}.")
    return {key: value for key, value in recorded.items() if key not in rights}


def _default(key: str) -> object:
    return active_settings().get(key, {}).get("default")


def training_state(resumed: Checkpoint, settings: Settings, images: int) -> Mapping[str, object]:
    """The training state of a last.pt under these settings.

    The key "average" holds the EMA's weights, "finished" whether all epochs are trained and only the final measurement
    is missing. images: number of training images. An epoch whose batches change starts again, with a note.
    """
    state = dict(resumed.training)
    if "batch" not in state:  # version 0.1.0 wrote it at the end of epochs only
        state |= {"epoch": resumed.epoch + 1, "batch": 0, "slower": 1.0}
        state |= {"returned": 0, "skipped": 0, "plan": None, "epochs": settings.epochs}
    if state.get("images", images) != images:
        print_note(f"the training split has {images} images; it had {state['images']} when the run stopped.")
    other = [key for key in ("batch", "imgsz", "data") if settings.as_dict()[key] != resumed.settings.get(key)]
    if state["batch"] and (other or state.get("images", images) != images):
        print_note(f"epoch {state['epoch'] + 1} starts again from its first batch: its batches have changed.")
        state["batch"] = 0
    same = [settings.as_dict()[key] == resumed.settings.get(key) for key in ("epochs", "patience", "time")]
    return {**state, "average": resumed.state, "finished": is_finished(resumed) and all(same)}
