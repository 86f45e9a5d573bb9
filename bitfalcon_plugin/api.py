"""The `YOLO` object that scripts use, and one function a verb for the command line. Both run what verbs.py holds."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from .checkpoint import Checkpoint, load
from .checkpoint import save as save_checkpoint
from .config import Settings, load_settings
from .devices import select_device
from .doctor import Report, run_doctor
from .errors import UserError
from .events import Events
from .foreign import convert_foreign, convert_ours, load_any, open_any
from .inputs import DEFAULT_MODEL, given, graph_for, is_weights
from .model import Detector, Summary, read_graph
from .results import Results
from .selftest import Verdict, run_selftest
from .runs import run_train
from .validate import Metrics
from .verbs import run_predict, run_val, show_info


class YOLO:
    """A detector for scripts: `YOLO("yolov12.yaml").train(data=..., scale="n")`, `YOLO("best.pt").predict("images/")`.

    model: a graph (.yaml) or a checkpoint (.pt). Keyword arguments of the methods are the settings of the command line.
    names: class index to name. model: the Detector. overrides: what a checkpoint remembers (data, imgsz, single_cls).
    """

    def __init__(self, model: str | Path = DEFAULT_MODEL, task: str | None = None, verbose: bool = False):
        if task not in (None, "detect"):
            raise UserError(f"task={task!r}: this package detects; task is 'detect' or not given.")
        self.task, self.source, self.verbose = "detect", str(model), verbose
        self.checkpoint = load_any(model) if is_weights(model) else None
        self.ckpt_path = self.source if self.checkpoint else None
        remembered = self.checkpoint.settings if self.checkpoint else {}
        self.overrides = {key: remembered[key] for key in ("data", "imgsz", "single_cls") if remembered.get(key) is not None}
        self.trainer = self.metrics = None
        self._events = Events()
        self._model: Detector | None = None
        self._ready: tuple[object, Detector] | None = None
        if self.checkpoint is None:
            read_graph(model)  # a wrong name or graph is told now, not at the first use

    @property
    def model(self) -> Detector:
        """The network; a graph's own is built at its first use, with fresh weights."""
        if self._model is None:
            self._model = self.checkpoint.model() if self.checkpoint else Detector(graph_for(self.source, load_settings({})))
        return self._model

    @property
    def names(self) -> dict[int, str]:
        """Class index to name."""
        return self.model.names

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def train(self, **kwargs) -> Metrics:
        """Train and take over the best weights; returns their Metrics on the validation split."""
        settings = self._settings({"mode": "train", **kwargs})
        result = run_train(settings, None if settings.resume else self.checkpoint, self._events)
        self.trainer, self.metrics = result.trainer, result.metrics
        self.checkpoint, self._model, self.ckpt_path = load(result.best), None, str(result.best)
        self.overrides.update({"imgsz": self.checkpoint.settings["imgsz"], "data": self.checkpoint.settings["data"]})
        return self.metrics

    def val(self, **kwargs) -> Metrics:
        """Measure on a split of the data; returns Metrics."""
        settings = self._settings({"mode": "val", **kwargs})
        self.metrics = run_val(self._prepared(settings), settings)
        return self.metrics

    def predict(self, source=None, stream: bool = False, **kwargs) -> list[Results] | Iterator[Results]:
        """Detect on a path, glob, Pillow image, BGR array or a list of these; a list of Results, or with stream an iterator.

        Nothing is written unless save=True.
        """
        kwargs = {"save": False, **kwargs}
        settings = self._settings({"mode": "predict", **({"source": str(source)} if isinstance(source, (str, Path)) else {}), **kwargs})
        results = run_predict(self._prepared(settings), settings, source if source is not None else settings.source, self.verbose)
        return results if stream else list(results)

    __call__ = predict

    def info(self, **kwargs) -> Summary:
        """Print and return the rows and totals of the model."""
        settings = self._settings({"mode": "info", **kwargs})
        return show_info(self.model, settings)

    @property
    def callbacks(self) -> dict[str, list]:
        """Functions by event."""
        return self._events.callbacks

    def add_callback(self, event: str, function) -> None:
        """Call `function` with the trainer (or validator) at an event of a run: "on_train_epoch_end", ... (events.EVENTS)."""
        self._events.add(event, function)

    def clear_callback(self, event: str) -> None:
        """Forget the functions of one event."""
        self._events.callbacks.pop(event, None)

    def reset_callbacks(self) -> None:
        """Forget all functions."""
        self._events.callbacks.clear()

    def fuse(self) -> YOLO:
        """Fold the batch norms, in place."""
        self.model.fuse()
        return self

    def to(self, device: str | torch.device) -> YOLO:
        """Move the weights."""
        self.model.to(device)
        return self

    def _settings(self, overrides: dict[str, object]) -> Settings:
        settings = load_settings({**self.overrides, "model": self.source, **overrides})
        for note in settings.notes:
            print(f"note: {note}", file=sys.stderr)
        return settings

    def _prepared(self, settings: Settings) -> Detector:
        # A folded copy, kept while the weights stay as they are: in-place changes count up `_version`.
        device = select_device(settings.device) if settings.device is not None else self.device
        key = (id(self.model), str(device), sum(tensor._version for tensor in self.model.state_dict().values()))
        if self._ready is None or self._ready[0] != key:
            ready = copy.deepcopy(self.model).eval().requires_grad_(False).fuse()
            self._ready = (key, ready.to(device, memory_format=torch.channels_last))
        return self._ready[1]


def train(settings: Settings) -> Metrics:
    """The verb train."""
    source = settings.model or DEFAULT_MODEL
    return run_train(settings, load_any(source) if is_weights(source) and not settings.resume else None).metrics


def val(settings: Settings) -> Metrics:
    """The verb val."""
    return YOLO(_weights(settings, "val")).val(**given(settings))


def predict(settings: Settings) -> None:
    """The verb predict: writes annotated images and prints a line an image."""
    if settings.source is None:
        raise UserError("predict needs source=: an image, a folder or a glob, for example source=images/ .")
    model = YOLO(_weights(settings, "predict"), verbose=True)
    count = sum(1 for _ in model.predict(stream=True, **{"save": True, **given(settings)}))
    if not count:
        raise UserError(f"None of the images of source={settings.source} could be read.")


def info(settings: Settings) -> Summary | None:
    """The verb info; of another maker's checkpoint it says what the file holds, and nothing is built."""
    source = settings.model or DEFAULT_MODEL
    if is_weights(source):
        checkpoint = open_any(source)
        if not isinstance(checkpoint, Checkpoint):
            print(checkpoint.describe())
            print(f"classes: {', '.join(checkpoint.names.values()) or 'not named in the file'}")
            return None
        print(f"{source}: bitfalcon checkpoint, {checkpoint.graph.name} scale={checkpoint.graph.scale or 'none'}, "
              f"{len(checkpoint.state)} tensors, epoch {checkpoint.epoch + 1}, {checkpoint.date}")
        print(f"classes: {', '.join(checkpoint.graph.names.values())}")
        graph = checkpoint.graph
    else:
        graph = graph_for(source, settings)
    with torch.device("meta"):  # shapes alone: nothing is computed
        model = Detector(graph)
    return show_info(model, settings)


def convert(settings: Settings) -> Path:
    """The verb convert: another maker's checkpoint to our format, or with to= a checkpoint to a family's own keys."""
    if settings.model is None or not is_weights(settings.model):
        raise UserError("convert needs a checkpoint: bitfalcon convert x.pt, or bitfalcon convert best.pt to=turbo out=y.pt .")
    source = Path(settings.model)
    out = Path(settings.out or source.with_name(f"{source.stem}-{settings.to or 'bitfalcon'}.pt"))
    if out.exists() and out.samefile(source):
        raise UserError(f"out={out} is the file to convert; give another name.")
    opened = open_any(source)
    if settings.to is None:
        if isinstance(opened, Checkpoint):
            raise UserError(f"'{source}' is in our format already. Give to=v1 or to=turbo to write a maker's keys.")
        checkpoint = convert_foreign(opened)
        print(opened.describe())
        save_checkpoint(out, checkpoint)
        print(f"wrote {out}: {len(checkpoint.state)} tensors in our format; licence: {checkpoint.license or 'not stated'}")
        return out
    state = convert_ours(opened if isinstance(opened, Checkpoint) else convert_foreign(opened), settings.to, out)
    print(f"wrote {out}: a state dict of {len(state)} tensors in the keys of {settings.to}")
    return out


def doctor(settings: Settings) -> Report:
    """The verb doctor: everything wrong or odd in a dataset, printed."""
    return run_doctor(settings)


def selftest(settings: Settings) -> Verdict:
    """The verb selftest: trains on generated shapes and says whether the accuracy is what it should be."""
    return run_selftest(settings)


def _weights(settings: Settings, verb: str) -> str:
    if settings.model is None:
        raise UserError(f"{verb} needs model=: a trained checkpoint, for example model=runs/detect/train/weights/best.pt .")
    if not is_weights(settings.model):
        raise UserError(f"{verb} needs trained weights; model={settings.model} does not end in .pt. Give a checkpoint, for example "
                        "model=runs/detect/train/weights/best.pt .")
    return settings.model


