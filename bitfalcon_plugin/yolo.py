"""The `YOLO` object that scripts use: what a model remembers between calls, and the names of spec/interface.md section 10."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .config.callbacks import Events
from .config.devices import every_device, select_device
from .config.errors import MissingFileError, UserError, did_you_mean
from .config.settings import Settings, load_settings
from .export.formats import ModelKind, model_kind
from .export.open import ExportedModel
from .models.build import DEFAULT_MODEL, graph_for, read_graph
from .models.detector import Detector, odd_norms
from .models.inference.prepare import prepared
from .models.summary import Info, show_info
from .models.weights.checkpoint import Checkpoint, load
from .models.weights.checkpoint import save as save_checkpoint
from .models.weights.foreign import KEPT_SETTINGS, load_any
from .models.weights.transfer import transfer
from .predict.pipeline import Predictor
from .predict.results import Results
from .predict.run import run_predict

if TYPE_CHECKING:
    from .benchmark.report import Bench
    from .tasks.metrics import Metrics


class YOLO:
    """A detector for scripts: `YOLO("yolov12.yaml").train(data=..., scale="n")`, `YOLO("best.pt").predict("images/")`.

    model: a graph (.yaml), a checkpoint (.pt) or an exported model, for predict and val; a bare name is the checkpoint where one of
    that name lies here. Keyword arguments of the methods are the settings of the command line. verbose: predict prints a line an image.

    names: class index to name. model: the Detector, whose attributes are attributes here too. overrides: settings of every
    call that does not give them; may be edited. trainer, metrics, predictor: of the latest run. ckpt_path: the file of the
    weights. Raises UserError for what cannot be meant, MissingFileError (a FileNotFoundError) for a file that is not there.

    Threads: several may call `predict` of one object at once, after a first call. Everything else, changing weights or
    overrides above all, belongs to one thread at a time.
    """

    transforms = None  # of classifiers

    def __init__(self, model: str | Path = DEFAULT_MODEL, task: str | None = None, verbose: bool = False):
        if task not in (None, "detect"):
            raise UserError(f"task={task!r}: this package detects; task is 'detect' or not given.")
        self.task, self.source, self.verbose = "detect", _named_file(model), verbose
        self.model_name = self.source
        self.trainer = self.metrics = self.predictor = None
        self._events = Events()
        self._start: Checkpoint | None = None  # weights that a graph begins with
        self.overrides: dict[str, object] = {"task": self.task, "model": self.source}
        kind = model_kind(self.source)
        self._opened = ExportedModel(self.source) if kind is ModelKind.EXPORTED else None
        if kind is ModelKind.GRAPH:
            read_graph(self.source)  # raises for a wrong name or graph now, not at the first use
        is_checkpoint = kind is ModelKind.CHECKPOINT
        self._take(load_any(self.source) if is_checkpoint else None, self.source if is_checkpoint else None)

    @property
    def model(self) -> Detector:
        """The network; a graph's own is built at its first use, with fresh weights or those of `load`. A Runtime of an exported model."""
        if self._opened:
            return self._opened.runtime
        if self._model is None:
            with torch.inference_mode(False):  # it is to be trained and changed, whoever asks for it first
                self._model = self.checkpoint.model() if self.checkpoint else self._built()
            self._born = _changes(self._model)
        return self._model

    @property
    def names(self) -> dict[int, str]:
        """Class index to name."""
        return self.model.names

    @property
    def device(self) -> torch.device:
        """Where the weights are. Runs take device=, or what `to` was told, or the best device there is."""
        return next(self.model.parameters()).device

    @property
    def cfg(self) -> str | None:
        """The graph's file, where the model is not from a checkpoint."""
        return self.source if model_kind(self.source) is ModelKind.GRAPH else None

    @property
    def ckpt(self) -> dict[str, object]:
        """What the checkpoint says of its weights: epoch, date, license, train_args, train_metrics; and model. {} for a graph."""
        if (known := self.checkpoint) is None:
            return {}
        return {
            "epoch": known.epoch,
            "date": known.date,
            "license": known.license,
            "train_args": dict(known.settings),
            "train_metrics": dict(known.metrics),
            "model": self.model,
        }

    def train(self, trainer: None = None, **kwargs) -> Metrics:
        """Train and take over the best weights; returns their Metrics on the validation split.

        A checkpoint's weights are trained on as they are now; a graph starts fresh, or from pretrained= or `load`.
        """
        from .train.run import run_train

        _only(trainer, "train", "trainer", "add_callback hangs functions on the events of a run")
        settings = self._settings("train", kwargs)
        start = self.checkpoint if self._model is None or self.checkpoint is None else self._current()
        result = run_train(settings, None if settings.resume else start, self._events)
        self.trainer, self.metrics = result.trainer, result.metrics
        self._take(load(result.best), str(result.best))
        return self.metrics

    def val(self, validator: None = None, **kwargs) -> Metrics:
        """Measure on a split of the data; returns Metrics."""
        from .val.run import run_val

        _only(validator, "val", "validator", "add_callback hangs functions on the events of a run")
        settings = self._settings("val", kwargs)
        try:
            self.metrics = run_val(self._prepared(settings), settings, self._events)
        except MissingFileError as error:
            if kwargs.get("data") is None and "data" in self.overrides:
                raise MissingFileError(
                    f"{error} The weights were trained on data={self.overrides['data']}; give data= ."
                ) from error
            raise
        return self.metrics

    def predict(
        self, source=None, stream: bool = False, predictor: None = None, **kwargs
    ) -> list[Results] | Iterator[Results]:
        """Detect in a source (sources.list_sources): a path, glob, Pillow image, BGR array, a list of these and more.

        Returns a list of Results, or with stream an iterator that works when it is asked. Nothing is written unless save=True.
        """
        _only(predictor, "predict", "predictor", "add_callback hangs functions on the events of a run")
        named = {"source": str(source)} if isinstance(source, (str, Path)) else {}
        settings = self._settings("predict", {"save": False, **named, **kwargs})
        source = settings.source if source is None else source
        verbose = self.verbose or "verbose" in kwargs and settings.verbose
        events = Events()
        events.callbacks.update(self._events.callbacks)
        events.callbacks["on_predict_start"] = [self._started, *events.callbacks["on_predict_start"]]
        results = run_predict(self._prepared(settings), settings, source, verbose, events)
        return results if stream else list(results)

    __call__ = predict

    def embed(self, source=None, stream: bool = False, **kwargs) -> list[torch.Tensor] | Iterator[torch.Tensor]:
        """A vector (n,) for each image: the means of the maps of the rows embed=[...], by default of the last before the head."""
        return self.predict(source, stream, **{"embed": [len(self.model.model) - 2], **kwargs})

    def info(self, detailed: bool = False, verbose: bool = True, **kwargs) -> Info:
        """Layers, parameters, gradients and GFLOPs (of imgsz=); printed with verbose, with detailed a line for each row too."""
        settings = self._settings("info", kwargs)
        with contextlib.redirect_stdout(io.StringIO()) as text:
            found = show_info(self.model, settings)
        if verbose or detailed:
            print(text.getvalue().rstrip("\n") if detailed else text.getvalue().splitlines()[-1])
        return Info(found.layers, found.parameters, found.gradients, found.gflops)

    @property
    def callbacks(self) -> dict[str, list]:
        """Functions by event."""
        return self._events.callbacks

    def add_callback(self, event: str, func) -> None:
        """Call `func` with the trainer, validator or predictor at an event of a run: "on_train_epoch_end", ... (events.EVENTS)."""
        self._events.add(event, func)

    def clear_callback(self, event: str) -> None:
        """Forget the functions of one event."""
        self._events.callbacks.pop(event, None)

    def reset_callbacks(self) -> None:
        """Forget all functions."""
        self._events.callbacks.clear()

    def load(self, weights: str | Path) -> YOLO:
        """Take over a checkpoint's weights, of ours or another maker's: a graph starts from them, a checkpoint's are replaced.

        Classes go by number where there are equally many and the model's have no names, otherwise by name. UserError where
        anything else differs.
        """
        if not _is_checkpoint_path(weights):
            shown = repr(weights) if isinstance(weights, (str, Path, int)) else f"a {type(weights).__name__}"
            raise UserError(f"load({shown}): expected the path of a checkpoint that ends in .pt.")
        if self._opened:
            self._opened.default_settings("load")  # says that there is nothing to load into
        found = load_any(weights).to_train(weights)
        if self.checkpoint is None:
            self._start, self._model = found, None  # built when it is asked for: train may choose the scale
            self.overrides["pretrained"] = str(weights)
            return self
        self.checkpoint.to_train(self.ckpt_path)
        if self._unfolded is not None:  # folded weights have no place for batch norms
            self._take(self._current(), self.ckpt_path)
        transfer(self.model, found, weights, by_name=_by_name(self.model, found))
        licences = dict.fromkeys(text for text in (self.checkpoint.license, found.license) if text)
        self._take(replace(self._current(), license="; ".join(licences) or None), str(weights))
        return self

    def save(self, filename: str | Path = "saved_model.pt") -> None:
        """Write the weights as they are now, in our format, whole or not at all. The licence of others' weights goes along."""
        if not _is_checkpoint_path(filename):
            raise UserError(f"save({filename!r}): expected a path that ends in .pt.")
        save_checkpoint(filename, self._current())

    def reset_weights(self) -> YOLO:
        """Fresh weights for the same graph: `train` starts from nothing."""
        old = self.model
        self._model, self._start, self._unfolded = (
            Detector(old.graph, (old.strides, old.multiple)).to(self.device),
            None,
            None,
        )
        self.overrides.pop("pretrained", None)
        if self.checkpoint is not None:
            self.checkpoint = Checkpoint(old.graph, self._model.state_dict(), settings=self.checkpoint.settings)
        self._born = _changes(self._model)
        return self

    def fuse(self) -> YOLO:
        """Fold the batch norms, in place. `train` and `save` go on with the weights of before."""
        if self._unfolded is None:
            self._unfolded = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.fuse()
        return self

    def to(self, *args, **kwargs) -> YOLO:
        """Move the weights or change their type, as torch.nn.Module.to; devices also as in device= ("0"). Runs then go there."""
        device, *rest = (
            args if args and isinstance(args[0], (str, int, torch.device)) else (kwargs.pop("device", None), *args)
        )
        if device is not None:
            found = select_device(str(device))
            self.overrides["device"] = str(found)
            rest.insert(0, found)
        try:
            self.model.to(*rest, **kwargs)
        except TypeError as error:
            raise UserError(
                f"to{args}: expected a device, a floating-point type or both ({str(error).splitlines()[0]})."
            ) from error
        return self

    def cpu(self) -> YOLO:
        """Move the weights into the CPU's memory."""
        return self.to("cpu")

    def cuda(self, device: int | str | torch.device | None = None) -> YOLO:
        """Move the weights to a GPU."""
        return self.to("cuda" if device is None else device)

    def half(self) -> YOLO:
        """float16 weights."""
        return self.to(torch.float16)

    def float(self) -> YOLO:
        """float32 weights."""
        return self.to(torch.float32)

    def eval(self) -> YOLO:
        """Batch norms by their gathered statistics; val and predict work so in any case."""
        self.model.eval()
        return self

    def track(self, *args, **kwargs):
        """Not here."""
        raise UserError(
            "track is not here. Give the detections of predict(stream=True) to a tracker of another package: "
            "supervision.Detections.from_ultralytics(result) is the form that those take."
        )

    def export(self, **kwargs) -> str:
        """Write the weights as they are now for another program, compared with the network first; returns the path (see export.py)."""
        from .export.run import run_export

        settings, known = self._settings("export", kwargs), self.checkpoint and self.checkpoint.license
        return str(
            run_export(
                self.model,
                settings,
                self.ckpt_path or self.source,
                known,
                self._events,
                "data" not in kwargs,
                kwargs.keys(),
            )
        )

    def benchmark(self, **kwargs) -> Bench:
        """Measure every engine and precision that is installed with these weights; prints and writes a table (see bench.py)."""
        from .benchmark.run import run_benchmark, scratch

        settings = self._settings("benchmark", {"data": None, "batch": 1, **kwargs})
        with scratch() as folder:
            origin = Path(self.ckpt_path or self.source)
            self.save(folder / f"{origin.stem}.pt")
            return run_benchmark(self.model, folder / f"{origin.stem}.pt", origin, settings)

    def tune(self, *args, **kwargs):
        """Not here."""
        raise UserError(
            "tune is not here. Call train() in a loop over the settings to compare: it returns the metrics, and each run "
            "keeps args.yaml and results.csv."
        )

    def __repr__(self) -> str:
        return f"YOLO({str(self.ckpt_path or self.source)!r})"

    def __getattr__(self, name: str):
        # What is not here is looked for in the network: stride, parameters(), state_dict(), ...
        if not name.startswith("_") and name != "model" and hasattr(inner := self.model, name):
            return getattr(inner, name)
        known = [word for word in dir(type(self)) if not word.startswith("_")]
        raise AttributeError(f"YOLO has no {name!r}, nor has its model.{did_you_mean(name, known)}")

    def _take(self, checkpoint: Checkpoint | None, path: str | None) -> None:
        # Go on with these weights, or none.
        self.checkpoint, self.ckpt_path = checkpoint, path
        self._model: Detector | None = None
        self._born = -1  # of a model as it was built
        self._ready: tuple[tuple[object, ...], Detector] | None = None
        self._unfolded: dict[str, torch.Tensor] | None = None  # the weights from before `fuse`
        if checkpoint is not None:
            self.overrides.pop("pretrained", None)
            known = checkpoint.settings
            self.overrides.update({key: known[key] for key in KEPT_SETTINGS if known.get(key) is not None})
            self.overrides["model"] = path

    def _started(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def _built(self) -> Detector:
        model = Detector(graph_for(self.source, load_settings({})))
        if self._start is not None:
            by_name = _by_name(model, self._start)
            transfer(model, self._start, self.overrides["pretrained"], by_name=by_name)
            model.names = model.names if by_name else dict(self._start.graph.names)
        return model

    def _current(self) -> Checkpoint:
        """The weights as they are now, to be trained on or written."""
        model, known = self.model, self.checkpoint
        known = known or Checkpoint(
            model.graph,
            {},
            license=self._start and self._start.license,
            norms=odd_norms(model),
            measured=(model.strides, model.multiple),
        )
        return replace(
            known,
            graph=replace(known.graph, names=dict(model.names)),
            training=None,
            compared=False,
            state={name: tensor.cpu() for name, tensor in (self._unfolded or model.state_dict()).items()},
        )

    def _settings(self, mode: str, given: Mapping[str, object]) -> Settings:
        named = given.get("model") or self.source
        if str(named) not in (self.source, self.overrides["model"]):
            raise UserError(
                f"{mode}(model={str(named)!r}): the model of this object is {self.source!r}; make another: "
                f"YOLO({str(named)!r})."
            )
        said = self._opened.default_settings(mode) if self._opened else {}
        settings = load_settings(
            {**said, **self.overrides, **{key: _plain(value) for key, value in given.items()}, "mode": mode}
        )
        for note in settings.notes:
            print(f"note: {note}", file=sys.stderr)
        return settings

    def _prepared(self, settings: Settings) -> Detector:
        # A folded copy, kept while the weights stay as they are.
        if self._opened:
            return self._opened.runtime_for(settings)
        several = settings.mode == "predict"  # a folder is shared out
        devices, model = (
            (every_device if several else lambda wanted: [select_device(wanted)])(settings.device),
            self.model,
        )
        weight = next(model.parameters())
        changes = _changes(model)
        if self.checkpoint is None and self._start is None and changes == self._born:
            print(f"note: {self.source} is a graph, its weights are random until train() or load().", file=sys.stderr)
        key = (model, devices, weight.dtype, changes, settings.half, settings.compile)
        if self._ready is None or self._ready[0] != key:
            ready, *twins = (
                prepared(model, device, half=settings.half, compiling=settings.compile) for device in devices
            )
            ready.twins = tuple(twins)
            self._ready = (key, ready)
        ready = self._ready[1]
        ready.names = dict(model.names)
        return ready


def _named_file(model: str | Path) -> str:
    if not isinstance(model, (str, Path)) or not str(model).strip():
        raise UserError(
            f"YOLO({model!r}): expected the path of a graph (.yaml), a checkpoint (.pt) or an exported model."
        )
    path = Path(model)
    weights = path.with_name(path.name + ".pt")
    return str(weights if not path.suffix and weights.is_file() else model)


def _is_checkpoint_path(path: object) -> bool:
    return isinstance(path, (str, Path)) and model_kind(path) is ModelKind.CHECKPOINT


def _plain(value: object) -> object:
    # Settings are numbers, texts and lists; scripts also pass what they have at hand.
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.tolist()
    return sorted(value) if isinstance(value, (set, frozenset)) else list(value) if isinstance(value, range) else value


def _by_name(model: Detector, checkpoint: Checkpoint) -> bool:
    # By number only where the model's classes are as many, and called 0, 1, 2, ...
    return model.nc != checkpoint.graph.nc or any(name != str(index) for index, name in model.names.items())


def _changes(model: Detector) -> int:
    # Changes in place count up `_version`; those that go through `.data` do not.
    return sum(tensor._version for tensor in model.state_dict().values())


def _only(value: object, verb: str, name: str, instead: str) -> None:
    if value is not None:
        raise UserError(f"{verb}({name}={value!r}): no {name} of others is taken; {instead}.")
