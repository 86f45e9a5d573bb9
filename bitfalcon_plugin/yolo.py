"""The `YOLO` object of scripts: one model, and a method for each verb. Names as in spec/interface.md section 10."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from .config.callbacks import EventMethods, Events
from .config.errors import MissingFileError, UserError
from .config.keywords import check_task, parse_keywords
from .config.notes import print_note_once
from .config.printable import say
from .config.settings import Settings
from .config.weight_files import model_file
from .export.formats import ModelKind, model_kind
from .export.open import ExportedModel
from .models.build import DEFAULT_MODEL, model_for_task, read_graph, task_of_graph
from .models.detector import Detector
from .models.graph.rows import Graph
from .models.network_methods import NetworkMethods
from .models.summary import Info, show_info
from .models.weights.checkpoint import CONTENT, checkpoint_from, content_of, load_checkpoint, plain_values
from .models.weights.foreign import open_checkpoint
from .models.working_model import WorkingModel
from .predict.results import Results
from .predict.run import run_predict
from .tasks import TASKS
from .tasks.script_model import ScriptModel

if TYPE_CHECKING:
    from .benchmark.report import Bench
    from .export.kept_export import Engine
    from .export.run import Export
    from .tasks.metrics import Metrics
    from .tune.report import Tuning


LEFT_OUT: Any = object()  # the source of a call that names none; None is the frame after the end of a video


class YOLO(NetworkMethods, EventMethods):
    """A detector for scripts: `YOLO("yolov12.yaml").train(data=..., scale="n")`, `YOLO("best.pt").predict("images/")`.

    model: the path of a graph (.yaml), of a checkpoint (.pt), or of an exported model, which predicts and validates
    only. A name without a suffix is the checkpoint of that name, if it exists. Another YOLO object is shared. task: of
    a shipped graph the one for this task is taken, and an exported model that does not say its task has this one.
    verbose: print what is opened and how the network computes; of a licence a note is printed in any case. Keyword
    arguments of the methods are the settings of the command line; `settings`, Settings, replace them.

    names: class index to name. model: the Detector; its attributes are attributes of this object too. overrides:
    settings of every call that does not give them; a script may edit them. trainer, metrics, predictor: of the latest
    run. latest_export: what it wrote, with its accuracy. ckpt_path: the file of the weights. Raises UserError for
    impossible settings, and MissingFileError (also a FileNotFoundError) for a missing file.

    Threads: several may call `predict` of one object at once, also while another one calls `load`: each result is of
    one set of weights. All other calls, those that change overrides above all, belong to one thread at a time.
    """

    transforms = None  # an attribute of classifiers

    def __init__(self, model: str | Path = DEFAULT_MODEL, task: str | None = None, verbose: bool = False):
        if isinstance(model, YOLO):
            self.__dict__ = model.__dict__
            return
        known_task = task if task in TASKS else None
        self._begin(model_for_task(model_file(model), known_task), verbose)
        kind = model_kind(self.source)
        if kind is ModelKind.EXPORTED:
            self._exported = ExportedModel(self.source, known_task)
            self.task = self.overrides["task"] = self._exported.task
        checkpoint = open_checkpoint(self.source, brief=not verbose) if kind is ModelKind.CHECKPOINT else None
        self._working = WorkingModel(self.source, checkpoint)
        if kind is ModelKind.GRAPH:
            self._set_task(read_graph(self.source))  # raises for a wrong name or graph now, not at the first use
        self._update_overrides()
        check_task(task, self.task, self.source)

    def _set_task(self, graph: Graph) -> None:
        self.task = self.overrides["task"] = task_of_graph(graph)

    def _begin(self, source: str, verbose: bool) -> None:
        """Set the attributes that every object begins with."""
        self.task, self.source, self.model_name, self.verbose = "detect", source, source, verbose
        self.trainer = self.metrics = self.predictor = None
        self.latest_export: Export | None = None
        self._exported: ExportedModel | None = None
        self._engine: Engine | None = None  # what computes in the place of torch, once engine= asks for it
        self._events, self._tracking = Events(), None
        self.overrides: dict[str, object] = {"task": self.task, "model": source}

    @property
    def model(self) -> ScriptModel:
        """The network, of a graph built at its first use; for an exported model its runtime."""
        if self._exported:
            return self._exported.runtime
        return self._working.hand_out(lambda network: ScriptModel(network, self.overrides, self._working.origin()))

    @model.setter
    def model(self, network: Detector) -> None:
        """Go on with a network that a script has made of one of this package. Raises UserError for another one."""
        self._changeable.put(network)

    @property
    def cfg(self) -> str | None:
        """The file of the graph; None for a model that is not from a graph."""
        return self.source if model_kind(self.source) is ModelKind.GRAPH else None

    def train(self, trainer: Callable[..., Any] | None = None, **kwargs) -> Metrics:
        """Train, go on with the best weights, and return their Metrics on the validation split.

        Training starts from the present weights of a checkpoint. For a graph it starts from fresh weights, or from
        those of pretrained= or `load`. trainer: a class of a script (see `_train_by`).
        """
        from .train.run import run_train

        settings = self._complete(parse_keywords("train", kwargs))
        if trainer is not None:
            return self._train_by(trainer, settings)
        may_differ = self.checkpoint is not None and self._working.built is not None
        start = self._working.to_checkpoint() if may_differ else self.checkpoint
        result = run_train(settings, None if settings.resume else start, self._events)
        self.trainer, self.metrics = result.trainer, result.metrics
        self._working.use(load_checkpoint(result.best), str(result.best))
        self._update_overrides()
        return self.metrics

    def _train_by(self, trainer: Callable[..., Any], settings: Settings) -> Metrics:
        """Train by a class of a script: an object of it gets the network of a checkpoint, and trains.

        Calls trainer(overrides=, _callbacks=), get_model(weights=, cfg=) and train(), and reads result, best and
        best_network (spec/dropin.md section 7).
        """
        _check_class("train", "trainer", trainer, "get_model", "train")
        run = trainer(overrides=settings.given_values(without=("mode",)), _callbacks=self.callbacks)
        if self.checkpoint is not None and not settings.resume:
            run.model = run.get_model(weights=self.model, cfg=self.model.yaml)
        run.train()
        self.trainer, self.metrics = run, run.result.metrics
        if Path(run.best).is_file():
            self._working.use(load_checkpoint(run.best), str(run.best))
            self._working.built = run.best_network  # None where the file says it all
            self._update_overrides()
        return self.metrics

    def val(
        self, validator: Callable[..., Any] | None = None, *, settings: Settings | None = None, **kwargs
    ) -> Metrics:
        """Return the Metrics of the model on a split of the data.

        validator: a class of a script. Calls validator(args=, _callbacks=), then the object with model=, and reads its
        metrics.
        """
        from .val.run import run_val

        given = settings or parse_keywords("val", kwargs)
        settings = self._complete(given)
        if validator is not None:
            _check_class("val", "validator", validator, "__call__")
            run = validator(args=settings.given_values(without=("mode",)), _callbacks=self.callbacks)
            run(model=self._network_for(settings) if self._exported else self.model)
            self.metrics = run.metrics
            return self.metrics
        try:
            self.metrics = run_val(self._network_for(settings), settings, self._events)
        except MissingFileError as error:
            if given.data is None and "data" in self.overrides:
                raise MissingFileError(
                    f"{error} The weights were trained on data={self.overrides['data']}; give data= ."
                ) from error
            raise
        return self.metrics

    @overload
    def predict(self, source=LEFT_OUT, stream: Literal[False] = False, **kwargs) -> list[Results]: ...
    @overload
    def predict(self, source=LEFT_OUT, *, stream: Literal[True], **kwargs) -> Iterator[Results]: ...
    def predict(
        self,
        source=LEFT_OUT,
        stream: bool = False,
        predictor: Callable[..., Any] | None = None,
        *,
        settings: Settings | None = None,
        **kwargs,
    ) -> list[Results] | Iterator[Results]:
        """Detect in a path, glob, Pillow image, BGR array, a list of these, ... (see sources.list_sources).

        Return a list of Results, or with stream an iterator that computes each when it is asked for. Nothing is written
        without save=True. predictor: a class of a script. Calls predictor(overrides=, _callbacks=) and
        setup_model(model=), and then the object with source= and stream=.
        """
        path = {"source": str(source)} if isinstance(source, (str, Path)) else {}
        settings = self._complete(settings or parse_keywords("predict", {"save": False, **path, **kwargs}))
        if predictor is not None:
            _check_class("predict", "predictor", predictor, "setup_model", "__call__")
            self.predictor = predictor(overrides=settings.given_values(without=("mode",)), _callbacks=self.callbacks)
            network = self._network_for(settings) if self._exported else self.model
            self.predictor.setup_model(model=network, verbose=False)
            return self.predictor(source=settings.source if source is LEFT_OUT else source, stream=stream)
        return self._detect(settings, source, stream, Events(self._events))

    __call__ = predict

    def _detect(
        self, settings: Settings, source: object, stream: bool, events: Events
    ) -> list[Results] | Iterator[Results]:
        """Run predict with complete settings and the events of this call."""
        if source is None or isinstance(source, (list, tuple)) and all(item is None for item in source):
            print_note_once(f"source={source} holds no image, as at the end of a video: there are no results.")
            return iter(()) if stream else []
        source = settings.source if source is LEFT_OUT else source
        events.callbacks["on_predict_start"].insert(0, lambda running: setattr(self, "predictor", running))
        network = self._network_for(settings)
        explains = self.verbose or settings.verbose and "verbose" in settings.given
        results = run_predict(network, settings, source, settings.verbose, events, network=explains)
        return results if stream else list(results)

    @overload
    def embed(self, source=LEFT_OUT, stream: Literal[False] = False, **kwargs) -> list[torch.Tensor]: ...
    @overload
    def embed(self, source=LEFT_OUT, *, stream: Literal[True], **kwargs) -> Iterator[torch.Tensor]: ...
    def embed(self, source=LEFT_OUT, stream: bool = False, **kwargs) -> list[torch.Tensor] | Iterator[torch.Tensor]:
        """Return for each image a vector (n,): the means of the maps of rows embed=[...], by default the last row's.

        The head's row does not count.
        """
        return self.predict(source, stream, **{"embed": [len(self._network.model) - 2], **kwargs})

    def info(self, detailed: bool = False, verbose: bool = True, **kwargs) -> Info:
        """Return layers, parameters, gradients and GFLOPs (for an image of imgsz=).

        verbose prints them in a line; detailed also prints a line for each row of the graph.
        """
        settings = self._complete(parse_keywords("info", kwargs))
        with contextlib.redirect_stdout(io.StringIO()) as text:
            summary = show_info(self._network, settings)
        if verbose or detailed:
            say(text.getvalue().rstrip("\n") if detailed else text.getvalue().splitlines()[-1])
        return Info(summary.layers, summary.parameters, summary.gradients, summary.gflops)

    @overload
    def track(
        self, source=LEFT_OUT, stream: Literal[False] = False, persist: bool = False, **kwargs
    ) -> list[Results]: ...
    @overload
    def track(self, source=LEFT_OUT, *, stream: Literal[True], **kwargs) -> Iterator[Results]: ...
    def track(
        self,
        source=LEFT_OUT,
        stream: bool = False,
        persist: bool = False,
        *,
        settings: Settings | None = None,
        **kwargs,
    ) -> list[Results] | Iterator[Results]:
        """Predict, and give each object an id that it keeps from frame to frame (needs the package `trackers`).

        persist: go on with the ids of the call before, for frames that are given one by one. tracker: a name or a YAML.
        """
        from .track.run import Tracking

        if not TASKS[self.task].objects:
            raise UserError(
                f"track: '{self.source}' is a model for task={self.task}, which finds no objects to follow."
            )
        path = {"source": str(source)} if isinstance(source, (str, Path)) else {}
        given = settings or parse_keywords("track", {"save": False, **path, "persist": persist, **kwargs})
        self._tracking = self._tracking or Tracking()
        settings = self._tracking.settings(self._complete(given))
        return self._detect(settings, source, stream, self._tracking.events(self._events, settings))

    def export(self, *, settings: Settings | None = None, **kwargs) -> str:
        """Write the present weights for another program, compared with the network first; return the path.

        With data= the network and the file are validated on it: latest_export.accuracy has the numbers.
        """
        from .export.run import run_export

        given = settings or parse_keywords("export", kwargs)
        settings, source = self._complete(given), self.ckpt_path or self.source
        licence = self.checkpoint and self.checkpoint.license
        data_remembered = "data" not in given.given
        options = licence, self._events, data_remembered, given.given
        self.latest_export = run_export(self._network, settings, source, *options)
        return str(self.latest_export)

    def benchmark(self, *, settings: Settings | None = None, **kwargs) -> Bench:
        """Measure every installed runtime and precision with the present weights; print, write and return the table."""
        from .benchmark.run import BATCHES, run_benchmark, scratch

        given = settings or parse_keywords("benchmark", kwargs)
        batches = () if "batch" in given.given else BATCHES
        settings = self._complete(given.with_defaults({"data": None, "batch": BATCHES[0]}))
        origin = Path(self.ckpt_path or self.source)
        with scratch() as folder:
            copy = folder / f"{origin.stem}.pt"
            self.save(copy)
            return run_benchmark(self._network, copy, origin, settings, batches)

    def tune(
        self, use_ray: bool = False, iterations: int | None = None, *, settings: Settings | None = None, **kwargs
    ) -> Tuning:
        """Search for the hyper-parameters of the best fitness, by trainings from the present weights; see tune/run.py.

        The object itself stays as it is; best_hyperparameters.yaml of the search is for cfg= of `train`.
        """
        from .tune.run import run_tune

        trials = {} if iterations is None else {"iterations": iterations}
        settings = self._complete(settings or parse_keywords("tune", {**trials, "use_ray": use_ray, **kwargs}))
        is_changed = self.checkpoint is not None and self._working.built is not None
        return run_tune(settings, self._working.to_checkpoint() if is_changed else None, self._events)

    def __deepcopy__(self, memo: dict[int, object]) -> YOLO:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return twin

    def __getstate__(self) -> dict[str, object]:
        """What pickle and torch.save write: the weights as a checkpoint, the overrides, and no callbacks."""
        plain = {"overrides": plain_values(self.overrides), "source": self.source, "verbose": self.verbose}
        if self._exported:
            return plain
        try:
            content = content_of(self._working.to_checkpoint())
        except UserError:  # a script changed the layers: they go as they are, for Python's own pickle
            return {**plain, "working": self._working}
        return {**plain, CONTENT: content, "path": self.ckpt_path}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._begin(state["source"], state["verbose"])
        if CONTENT in state:
            self._working = WorkingModel(self.source, checkpoint_from(state[CONTENT], self.source))
            self._working.path = state["path"]
            self._set_task(self.checkpoint.graph)
        elif "working" in state:
            self._working = state["working"]
        else:
            self._exported = ExportedModel(self.source, state["overrides"]["task"])
            self._working = WorkingModel(self.source, None)
        self.overrides.update(state["overrides"])
        self.task = self.overrides["task"]

    def __repr__(self) -> str:
        return f"YOLO({str(self.ckpt_path or self.source)!r})"

    def _complete(self, given: Settings) -> Settings:
        """Return the settings of a call; keys not given come from `overrides`, then from an exported model."""
        if given.model is not None and given.model not in (self.source, self.overrides["model"]):
            raise UserError(
                f"{given.mode}(model={given.model!r}): the model of this object is {self.source!r}; make another: "
                f"YOLO({given.model!r})."
            )
        exported = self._exported.default_settings(given.mode) if self._exported else {}
        settings = given.with_defaults({**exported, **self.overrides})
        print_note_once(*settings.notes)
        return settings if given.mode == "train" else settings.replace(task=self.task)

    def _network_for(self, settings: Settings) -> Detector:
        """The network for predict and val."""
        if self._exported:
            if "engine" in settings.given:
                print_note_once(f"engine={settings.engine}: '{self.source}' is an export, run by its own program.")
            return self._exported.runtime_for(settings)
        runtime = None
        if settings.engine != "torch":
            from .export.kept_export import Engine

            self._engine = self._engine or Engine()
            runtime = self._engine.runtime_for(self._working, settings)
        return runtime or self._working.network_for(settings)


def _check_class(verb: str, name: str, value: object, *methods: str) -> None:
    """Raise UserError unless `value` can be called, and as a class has these methods."""
    missing = [method for method in methods if isinstance(value, type) and method not in dir(value)]
    if missing or not callable(value):
        raise UserError(
            f"{verb}({name}={value!r}): expected a {name} class with the methods {', '.join(methods)}, as the classes "
            "of bitfalcon_plugin.dropin.models.yolo.detect have them."
        )
