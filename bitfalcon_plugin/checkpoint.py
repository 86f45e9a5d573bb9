"""Our checkpoint format: a dict of tensors and plain values, so that `torch.load(path)` opens it with its defaults.

Keys: format, version, bitfalcon (package version), date, graph (name, document, scale, variant, nc, names: what the model
is built from), state (tensors), settings, metrics, epoch (0-based, of the weights), license (of weights that came from
elsewhere), norms (eps and momentum of batch norms that differ from the usual), source (family and layout of another maker's
file), training (what a resumed run needs; None in a finished file). The graph's rows stand resolved beside its document.
"""

from __future__ import annotations

import datetime
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from . import __version__
from .errors import MissingFileError, UserError, raise_problems
from .files import atomic
from .graph import DOCUMENT_KEYS, Graph
from .model import Detector, graph_of

FORMAT, VERSION = "bitfalcon", 1


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. state: tensors by name. training: optimizer, EMA and counters of an unfinished run, or None."""

    graph: Graph
    state: Mapping[str, Tensor]
    settings: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    epoch: int = -1
    license: str | None = None
    training: Mapping[str, object] | None = None
    date: str = ""
    norms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    source: Mapping[str, object] = field(default_factory=dict)
    measured: tuple[Sequence[float], int] | None = None  # strides and multiple of the model, where they are known

    def model(self) -> Detector:
        """A Detector with these weights, float32, in eval mode."""
        model = Detector(self.graph, self.measured)
        own = model.state_dict()
        wrong = sorted(name for name in own.keys() | self.state.keys()
                       if name not in own or name not in self.state or own[name].shape != self.state[name].shape)
        raise_problems(f"The weights do not fit {self.graph.name}:", wrong)
        with torch.no_grad():
            for name, tensor in self.state.items():  # one at a time: a second copy of all would double the memory
                own[name].copy_(tensor)
        self.set_norms(model)
        return model.eval()

    def set_norms(self, model: Detector) -> None:
        """Give a model's batch norms the eps and momentum of this file, where they are not the usual ones."""
        for name, (eps, momentum) in self.norms.items():
            norm = model.get_submodule(name)
            norm.eps, norm.momentum = eps, momentum


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    graph = checkpoint.graph
    document = {key: value for key, value in graph.document.items() if key in DOCUMENT_KEYS}
    content = {
        "format": FORMAT, "version": VERSION, "bitfalcon": __version__,
        "date": checkpoint.date or datetime.datetime.now().isoformat(timespec="seconds"),
        "graph": {"name": graph.name, "document": _plain(document), "scale": graph.scale, "variant": graph.variant,
                  "nc": graph.nc, "names": dict(graph.names),
                  "measured": [list(checkpoint.measured[0]), checkpoint.measured[1]] if checkpoint.measured else None,
                  "rows": _plain([[r.index, r.source, r.repeats, r.module, r.args, r.keywords] for r in graph.rows])},
        "state": {name: tensor.detach().cpu() for name, tensor in checkpoint.state.items()},
        "settings": _plain(dict(checkpoint.settings)), "metrics": _plain(dict(checkpoint.metrics)),
        "epoch": checkpoint.epoch, "license": checkpoint.license, "training": checkpoint.training,
        "norms": _plain(dict(checkpoint.norms)), "source": _plain(dict(checkpoint.source)),
    }
    with atomic(path) as temporary:
        torch.save(content, temporary)


def load(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint of ours. Raises MissingFileError, or UserError that says what the file is instead."""
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"Weights '{path}' do not exist. Nothing is downloaded: give the path of a file you have.")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"'{path}' is not a checkpoint of bitfalcon: {_reason(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"'{path}' is not a checkpoint of bitfalcon (no format: {FORMAT!r} in it). A file of another "
                        "package cannot be resumed; give it as model= instead.")
    return parse(content, path)


def parse(content: Mapping[str, object], path: str | Path) -> Checkpoint:
    """A Checkpoint from what torch.load gave for `path`; UserError for a version that is too new."""
    if content["version"] > VERSION:
        raise UserError(f"'{path}' has format version {content['version']}, this is bitfalcon {__version__} (version "
                        f"{VERSION}). Install a newer bitfalcon.")
    saved = content["graph"]
    graph = graph_of(saved["document"], name=saved["name"], scale=saved["scale"] if saved["document"].get("scales") else "",
                     named_scale=saved["scale"], variant=saved["variant"], nc=saved["nc"], names=saved["names"])
    rest = {key: content[key] for key in ("state", "settings", "metrics", "epoch", "license", "training", "date")}
    return Checkpoint(graph=graph, norms=content.get("norms", {}), source=content.get("source", {}),
                      measured=saved.get("measured"), **rest)


def _reason(error: Exception) -> str:
    text = str(error)
    if "Weights only load failed" in text or "Unsupported" in text:
        return "it holds pickled objects, whose code is never run here. A file of another package cannot be resumed; give it as model= instead."
    return text.splitlines()[0] if text else type(error).__name__


def _plain(value: object) -> object:
    # Only what torch's restricted loader gives back: anything else becomes its text.
    if isinstance(value, Mapping):
        return {key if isinstance(key, (str, int)) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
