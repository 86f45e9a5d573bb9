"""The network of a graph or a checkpoint between the calls of a script: built when needed, changed, prepared to run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..config.devices import named_devices, select_device
from ..config.errors import UserError
from ..config.freed_memory import keep_freed_memory
from ..config.notes import print_note
from ..config.settings import Settings, load_settings
from ..config.threads import note_spinning_threads
from .build import graph_from_settings
from .detector import Detector, odd_norms
from .inference.prepare import prepare_for_inference
from .inference.snapshot import Snapshot
from .weights.checkpoint import Checkpoint
from .weights.foreign import open_checkpoint
from .weights.transfer import transfer


class WorkingModel:
    """A network that scripts may change, and the checkpoint that its weights came from.

    source: path of the graph, or of the checkpoint opened first. checkpoint, path: where the weights came from; None
    for a graph. built: the network, None before its first use. start, start_path: the checkpoint that a graph's weights
    begin with. lock: a thread that predicts and one that replaces the weights take it, so that each prediction is by
    one set of weights.
    """

    def __init__(self, source: str, checkpoint: Checkpoint | None):
        self.lock = threading.RLock()
        self.source = source
        self.start: Checkpoint | None = None
        self.start_path: str | None = None
        self._strict = False  # whether every tensor of `start` must fit
        self._revision = 0
        self.use(checkpoint, None if checkpoint is None else source)

    def use(self, checkpoint: Checkpoint | None, path: str | None) -> None:
        """Go on with the weights of a checkpoint, or without one as a graph that is built at its first use."""
        with self.lock:
            self._use(checkpoint, path)

    def _use(self, checkpoint: Checkpoint | None, path: str | None) -> None:
        self.checkpoint, self.path = checkpoint, path
        self._revision += 1
        self.built: Detector | None = None
        self._is_random = False  # whether the weights are the initial ones of a graph
        self._unfolded: dict[str, torch.Tensor] | None = None  # the weights from before `fuse`
        self._prepared: Detector | None = None  # the copy for predict and val
        self._choices: tuple[object, ...] = ()  # devices, half and compile of `_prepared`
        self._weights: Snapshot | None = None  # the weights of `_prepared`, once a script has the network
        self._handed: Any = None  # the network of scripts (tasks.script_model.ScriptModel), once one was asked for

    @property
    def network(self) -> Detector:
        """The network, for code that changes it only through this object. Scripts get it from `hand_out`."""
        if self.built is None:
            with torch.inference_mode(False):  # the weights may be trained later
                self.built = self.checkpoint.model() if self.checkpoint else self._build()
        elif self._handed is not None:
            self._handed.give_rows()
        return self.built

    def hand_out(self, wrap: Callable[[Detector], Any]) -> Any:
        """The network for scripts: what `wrap` makes of a Detector, the same object until the weights are replaced.

        From now on each `network_for` compares the weights, which a script may change.
        """
        network = self.network
        if self._weights is None:
            self._weights = Snapshot(network)
        if self._handed is None and isinstance(network, Detector):
            self._handed = wrap(network)
        return network if self._handed is None else self._handed

    def put(self, network: Any) -> None:
        """Go on with another network: a Detector, or what `hand_out` made of one. Raises UserError for another."""
        if not isinstance(network, Detector):
            raise UserError(
                f"model = a {type(network).__name__}: expected a network of this package, with its graph, strides and "
                "names. Change layers inside of the network instead."
            )
        is_handed = hasattr(network, "plain")
        self.use(self.checkpoint, self.path)
        self.built, self._handed = (network.plain(), network) if is_handed else (network, None)
        self._weights = Snapshot(self.built)

    def origin(self) -> Checkpoint:
        """Return what the file of the weights says, licence and norms for example; the weights are not the present."""
        model = self.network
        measured = model.strides, model.multiple
        license = self.start and self.start.license
        return self.checkpoint or Checkpoint(
            model.graph, {}, license=license, norms=odd_norms(model), measured=measured
        )

    def to_checkpoint(self) -> Checkpoint:
        """Return the present weights as a checkpoint, to train on or to write.

        Raises UserError where a script has changed the layers, so that the weights do not fit the graph any more.
        """
        if self._handed is not None and self._unfolded is None:
            return self._handed.to_checkpoint()
        model, origin = self.network, self.origin()
        return replace(
            origin,
            graph=replace(origin.graph, names=dict(model.names)),
            training=None,
            compared=False,
            state={name: tensor.cpu() for name, tensor in (self._unfolded or model.state_dict()).items()},
        )

    def load(self, path: str | Path, strict: bool = False) -> None:
        """Take over the weights of the checkpoint at `path`: a graph starts with them, others are replaced.

        Tensors that do not fit are left as they are, and a line says so. Raises UserError where hardly any fit, and
        with `strict` where anything but the classes differs.
        """
        loaded = open_checkpoint(path, brief=True).to_train(path)
        with self.lock:
            self._take(loaded, path, strict)

    def _take(self, loaded: Checkpoint, path: str | Path, strict: bool) -> None:
        if self.checkpoint is None:
            self.use(None, None)  # nothing is built here, since training may still choose the scale
            self.start, self.start_path, self._strict = loaded, str(path), strict
            return
        self.checkpoint.to_train(self.path)
        if self._unfolded is not None:  # folded weights have no place for batch norms
            self.use(self.to_checkpoint(), self.path)
        _take_over(self.network, loaded, path, strict)
        licences = dict.fromkeys(text for text in (self.checkpoint.license, loaded.license) if text)
        self.use(replace(self.to_checkpoint(), license="; ".join(licences) or None), str(path))

    def reset(self) -> None:
        """Replace the weights by fresh ones for the same graph, on the same device."""
        old, checkpoint = self.network, self.checkpoint
        fresh = Detector(old.graph, (old.strides, old.multiple)).to(next(old.parameters()).device)
        if checkpoint is not None:
            checkpoint = Checkpoint(old.graph, fresh.state_dict(), settings=checkpoint.settings)
        with self.lock:
            self.use(checkpoint, self.path)
            self.built, self.start, self._is_random = fresh, None, checkpoint is None

    def fuse(self) -> None:
        """Fold the batch norms in place; `to_checkpoint` still has the weights from before."""
        with self.lock:
            if self._unfolded is None:
                self._unfolded = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            self.network.fuse()
            if self._handed is not None:
                self._handed.take_rows()
            self._prepared, self._revision = None, self._revision + 1

    def to(self, *args, **kwargs) -> None:
        """Move the weights or change their type, as torch.nn.Module.to."""
        with self.lock:
            self.network.to(*args, **kwargs)
            self._prepared, self._revision = None, self._revision + 1

    def revision(self) -> int:
        """Return a number that is larger once the weights may have changed, through this object or by a script."""
        with self.lock:
            self._notice_changes()
            return self._revision

    def _notice_changes(self) -> None:
        """Compare the weights with those of `_prepared` where a script has the network."""
        if self._weights is not None and not self._weights.matches(self.network):
            self._weights, self._prepared, self._is_random = Snapshot(self.network), None, False
            self._revision += 1

    def note_random_weights(self) -> None:
        """Print a note where the weights are the initial ones of a graph."""
        if self._is_random:
            print_note(f"{self.source} is a graph, its weights are random until train() or load().")

    def has_hooks(self) -> bool:
        """Whether a script has hooked functions into the network."""
        return self._handed is not None and self._handed.has_hooks()

    def network_for(self, settings: Settings) -> Detector:
        """Return the network for predict and val: a folded copy, the same one until weights or choices change."""
        with self.lock:
            return self._network_for(settings)

    def _network_for(self, settings: Settings) -> Detector:
        model = self.network
        self._notice_changes()
        self.note_random_weights()
        # Several devices share the batches of predict.
        is_predict = settings.mode in ("predict", "track")
        devices = named_devices(settings.device) if is_predict else [select_device(settings.device)]
        note_spinning_threads(devices[0])
        if settings.mode == "val" or "batch" in settings.given:  # glibc keeps the smaller tensors of one image anyway
            keep_freed_memory(devices[0])
        if self.has_hooks():
            return self._handed.live(devices[0])
        choices = devices, settings.half, settings.compile
        if self._prepared is None or self._choices != choices:
            options = {"half": settings.half, "compiling": settings.compile}
            self._prepared, *twins = (prepare_for_inference(model, device, **options) for device in devices)
            self._prepared.twins, self._choices = tuple(twins), choices
        self._prepared.names = dict(model.names)
        return self._prepared

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_prepared": None, "lock": None}  # they are made again

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, lock=threading.RLock())

    def _build(self) -> Detector:
        model = Detector(graph_from_settings(self.source, load_settings({})))
        self._is_random = self.start is None
        if self.start is not None:
            _take_over(model, self.start, self.start_path, self._strict)
            if not _by_name(model, self.start):
                model.names = dict(self.start.graph.names)
        return model


def _take_over(model: Detector, checkpoint: Checkpoint, path: str, strict: bool) -> None:
    """Take over the weights that fit; unless all do, a line says how many and the first that does not."""
    result = transfer(model, checkpoint, path, by_name=_by_name(model, checkpoint), strict=strict)
    if result.misfit:
        print_note(f"'{path}': {result.counts}")


def _by_name(model: Detector, checkpoint: Checkpoint) -> bool:
    """Whether classes go by name: by number only where both have as many and the model calls them 0, 1, 2, ..."""
    return model.nc != checkpoint.graph.nc or any(name != str(index) for index, name in model.names.items())
