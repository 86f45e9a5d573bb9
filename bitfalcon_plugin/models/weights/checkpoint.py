"""Our checkpoint format: a dict of tensors and plain values, so that `torch.load(path)` opens it with its defaults.

A file of safetensors has the same content: the tensors, and everything else but `training` as JSON in its header.

Keys: format, version, bitfalcon (version of the package), date, graph (name, document, scale, variant, nc, names: what
the model is built from), state (tensors), settings, metrics, epoch (0-based, of the weights), license (of weights that
came from elsewhere), norms (eps and momentum of unusual batch norms), source (family and layout of a foreign
checkpoint), training (what a resumed run needs; None in a finished file). The graph's resolved rows stand beside
its document.

A packed ternary model has a format of its own: instead of state and training it has the pieces of
weights/packed_layout.py and their checksum, fmt, rule and bn_folded; it has no rows.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...compat.allowed import cut_line
from ...compat.reader import uncollected
from ...compat.standins import StandIn
from ...config.errors import MissingFileError, UserError, blaming, raise_problems
from ...config.version import __version__
from ..build import resolve_graph, state_shapes
from ..detector import Detector
from ..graph.document import DOCUMENT_KEYS
from ..graph.rows import Graph
from ..modules.bit_activations import ACT_SCALE
from ..modules.bit_folded import FrozenConv2d
from .files import load_weights, write_content
from .packed_layout import checksum, flatten, restore

FORMAT, VERSION = "bitfalcon", 1
PACKED, PACKED_VERSION = "bitfalcon-packed", 1
CHECKPOINT_FORMATS = (FORMAT, PACKED)
CONTENT = "bitfalcon"  # where a pickled YOLO or network of this package keeps the content of its checkpoint
MAX_TEXT = 200  # characters of a class name or date that are kept, and of a licence that are shown
MAX_LICENSE = 100_000
WITHOUT_GRAPH = "a {} checkpoint without its graph. Convert the file of its maker again with `bitfalcon convert`"
TEXT = (str, type(None))
ENTRIES = {
    "graph": Mapping,
    "state": Mapping,
    "settings": Mapping,
    "metrics": Mapping,
    "epoch": int,
    "license": TEXT,
    "training": (Mapping, type(None)),
    "date": str,
}
GRAPH_ENTRIES = {"name": str, "document": Mapping, "scale": str, "variant": str, "nc": int, "names": Mapping}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    state: tensors by name. training: optimizer, EMA and counters of an unfinished run, or None. measured: strides and
    multiple of the model, where they are known. compared: whether the shapes were compared with the graph already.
    packed: the codec (of weights.trits.CODECS) of a folded ternary model, whose file is packed; otherwise "".
    """

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
    measured: tuple[Sequence[float], int] | None = None
    compared: bool = False
    packed: str = ""

    @uncollected()
    def model(self) -> Detector:
        """Build a Detector with these weights: float32, in eval mode, folded where the checkpoint is packed.

        Raises UserError for tensors that do not fit the graph, and where the file has no graph.
        """
        if not self.graph.rows:
            raise UserError(f"{self.graph.name} is {WITHOUT_GRAPH.format(self.source.get('task', 'foreign'))}.")
        with blaming(self.graph.name):
            return self._model()

    def _model(self) -> Detector:
        compared = self.compared or self.check_shapes()
        model = _built(self, compared)
        model_state = model.state_dict()
        self._compare({name: tuple(tensor.shape) for name, tensor in model_state.items()})
        if self.packed:
            self._check_codes(model)
        with torch.no_grad():
            for name, tensor in self.state.items():  # one at a time: a second copy of all would double the memory
                model_state[name].copy_(tensor)
        self.set_norms(model)
        return model.eval()

    def check_shapes(self) -> bool:
        """Raise UserError for tensors that do not fit the graph; return whether that is known without building it."""
        shapes = _shapes(self.graph)
        if shapes is not None:
            self._compare(self._folded(shapes) if self.packed else shapes)
        return shapes is not None

    def _folded(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        # The shapes after folding. Those of vectors are taken from the file: only weights take memory worth a check.
        codes = {name: name.removesuffix("weight") + "codes" for name in shapes if name.endswith("weight")}
        expected = {name: tuple(tensor.shape) for name, tensor in self.state.items() if tensor.ndim < 2}
        for name, shape in shapes.items():
            if len(shape) > 1:
                expected[codes[name] if codes.get(name) in self.state else name] = shape
        return expected

    def _check_codes(self, model: Detector) -> None:
        # Codes beyond 1 would be taken for ternary ones, whose sums cannot overflow.
        layers = [
            name
            for name, module in model.named_modules()
            if isinstance(module, FrozenConv2d) and module.kind.startswith("ternary")
        ]
        wrong = [name for name in layers if any(abs(int(limit)) > 1 for limit in self.state[f"{name}.codes"].aminmax())]
        raise_problems(
            f"{self.graph.name} is damaged: these layers are ternary, and their codes are not -1, 0 and 1:", wrong
        )

    def to_train(self, path: str | Path) -> Checkpoint:
        """Return this checkpoint. Raises UserError where it is packed: it has codes, and no weights to train."""
        if self.packed:
            raise UserError(
                f"'{path}' is a packed model, for predict and val: the weights that were trained are not in it any "
                "more. Give the checkpoint that it was packed from."
            )
        return self

    def _compare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        missing = {name for name in shapes.keys() - self.state.keys() if name.endswith(ACT_SCALE) and not self.packed}
        wrong = sorted(
            name
            for name in (shapes.keys() | self.state.keys()) - missing
            if name not in shapes or name not in self.state or shapes[name] != tuple(self.state[name].shape)
        )
        raise_problems(f"The weights do not fit {self.graph.name}:", wrong)

    def set_norms(self, model: Detector) -> None:
        """Give a model's batch norms the eps and momentum of this file, where they are not the usual ones."""
        modules = dict(model.named_modules()) if self.norms else {}
        for name, (eps, momentum) in self.norms.items():
            norm = modules.get(name)
            if not isinstance(norm, nn.BatchNorm2d):
                shown = cut_line(name, MAX_TEXT)
                raise UserError(f"The file has constants for a batch norm {shown} that {self.graph.name} has not.")
            norm.eps, norm.momentum = eps, momentum


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all; as safetensors where the name says so.

    Raises UserError where a packed one cannot be packed again, and without the package that writes the file.
    """
    write_content(path, content_of(checkpoint))


def content_of(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the content of a checkpoint's file: tensors on the CPU and plain values.

    Raises UserError where a packed one cannot be packed again.
    """
    graph = checkpoint.graph
    document = {key: value for key, value in graph.document.items() if key in DOCUMENT_KEYS}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "bitfalcon": __version__,
        "date": checkpoint.date or datetime.datetime.now().isoformat(timespec="seconds"),
        "graph": {
            "name": graph.name,
            "document": plain_values(document),
            "scale": graph.scale,
            "variant": graph.variant,
            "nc": graph.nc,
            "names": dict(graph.names),
            "measured": [list(checkpoint.measured[0]), checkpoint.measured[1]] if checkpoint.measured else None,
            "rows": plain_values([[r.index, r.source, r.repeats, r.module, r.args, r.keywords] for r in graph.rows]),
        },
        "state": {name: tensor.detach().cpu() for name, tensor in checkpoint.state.items()},
        "settings": plain_values(dict(checkpoint.settings)),
        "metrics": plain_values(dict(checkpoint.metrics)),
        "epoch": checkpoint.epoch,
        "license": checkpoint.license,
        "training": checkpoint.training,
        "norms": plain_values(dict(checkpoint.norms)),
        "source": plain_values(dict(checkpoint.source)),
    }
    rules = dict.fromkeys(policy.rule for policy in graph.bit) or ["absmean"]
    return _packed(content, checkpoint.packed, ", ".join(rules)) if checkpoint.packed else content


def _packed(content: Mapping[str, object], fmt: str, rule: str) -> dict[str, object]:
    document = {key: value for key, value in content["graph"]["document"].items() if key != "names"}  # stand beside it
    graph = {key: value for key, value in content["graph"].items() if key != "rows"} | {"document": document}
    plain = {key: value for key, value in content.items() if key not in ("state", "training")}
    plain |= {"format": PACKED, "version": PACKED_VERSION, "graph": graph, "rule": rule, "bn_folded": True}
    try:
        packed = {**plain, **flatten(content["state"], fmt)}
        return {**packed, "checksum": checksum(packed)}
    except ValueError as error:
        raise UserError(f"{content['graph']['name']} cannot be packed: it has {error}.") from error


@uncollected()
def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint in our format. Raises MissingFileError, or UserError that says what the file is instead."""
    path = Path(path)
    if not path.exists():
        raise MissingFileError(
            f"Weights '{path}' do not exist. Nothing is downloaded: give the path of a file you have."
        )
    content = own_content(load_weights(path).content)
    if content is None:
        raise UserError(
            f"'{path}' is not a checkpoint of bitfalcon (no format: {FORMAT!r} in it). A file of another "
            "package cannot be resumed; give it as model= instead."
        )
    with blaming(path):
        return checkpoint_from(content, path)


def own_content(content: object) -> dict[str, object] | None:
    """Return the content of our format in what was loaded from a file, or None.

    That is the whole file, or a YOLO object or network of this package that a script gave to torch.save, alone or as
    entry "ema" or "model" of a dict.
    """
    entries = [content.get("ema"), content.get("model")] if isinstance(content, dict) else []
    for entry in (content, *entries):
        entry = entry.attributes().get(CONTENT) if isinstance(entry, StandIn) else entry
        if isinstance(entry, dict) and entry.get("format") in CHECKPOINT_FORMATS:
            return entry
    return None


def checkpoint_from(content: Mapping[str, object], path: str | Path) -> Checkpoint:
    """Return the Checkpoint in what torch.load gave for `path`.

    Raises UserError for a format version that is too new, and for entries that are missing or damaged.
    """
    newest = PACKED_VERSION if content["format"] == PACKED else VERSION
    if type(content.get("version")) is not int:
        raise UserError(
            f"'{path}' calls itself a checkpoint of bitfalcon, but has no format version: it is damaged or made by "
            "hand."
        )
    if content["version"] > newest:
        raise UserError(
            f"'{path}' has format version {content['version']}, this is bitfalcon {__version__} (version "
            f"{newest}). Install a newer bitfalcon."
        )
    packed = ""
    if content["format"] == PACKED:
        packed = content["fmt"] if isinstance(content.get("fmt"), str) else ""
        content = _unpacked(content, path)
    if wrong := _damaged_entries(content):
        raise UserError(
            f"'{path}' is a damaged checkpoint of bitfalcon: {', '.join(wrong)} missing or not what is written there. "
            "Give another copy of it."
        )
    return Checkpoint(
        graph=_saved_graph(content),
        **{key: content[key] for key in ("state", "settings", "metrics", "epoch", "training")},
        norms=content.get("norms", {}),
        source=content.get("source", {}),
        measured=content["graph"].get("measured"),
        packed=packed,
        license=content["license"] and cut_line(content["license"], MAX_LICENSE),
        date=cut_line(content["date"], MAX_TEXT),
    )


def _saved_graph(content: Mapping[str, object]) -> Graph:
    saved = content["graph"]
    document, name, scale = saved["document"], cut_line(saved["name"]), saved["scale"]
    names = {index: cut_line(text, MAX_TEXT) for index, text in saved["names"].items()}
    task = content.get("source", {}).get("task", "detect")
    if task != "detect" and not document:  # converted by an early version, which did not build the head of the task
        return Graph(name, document, (), saved["nc"], names, scale, saved["variant"], None, 3)
    return resolve_graph(
        document,
        name=name,
        named_scale=scale,
        variant=saved["variant"],
        scale=scale if document.get("scales") else "",
        nc=saved["nc"],
        names=names,
    )


def _unpacked(content: Mapping[str, object], path: str | Path) -> dict[str, object]:
    try:
        return {**content, "state": restore(content), "training": None}
    except ValueError as error:
        raise UserError(
            f"'{path}' is a damaged packed model: {error}. Give another copy of it, or pack it again."
        ) from error


def _damaged_entries(content: Mapping[str, object]) -> list[str]:
    # Names of entries that are not what `save_checkpoint` writes. Tensors and texts are checked where they are used.
    wrong = [key for key, kind in ENTRIES.items() if not isinstance(content.get(key), kind)]
    saved = content.get("graph") if isinstance(content.get("graph"), Mapping) else {}
    wrong += [f"graph.{key}" for key, kind in GRAPH_ENTRIES.items() if not isinstance(saved.get(key), kind)]
    if wrong:
        return wrong
    state, names, norms = content["state"], saved["names"], content.get("norms", {})
    are_pairs = isinstance(norms, Mapping) and all(_are_numbers(pair) and len(pair) == 2 for pair in norms.values())
    fits = {
        "state": all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()),
        "graph.names": all(type(key) is int and isinstance(value, str) for key, value in names.items()),
        "norms": are_pairs,
        "graph.measured": saved.get("measured") is None or _is_measured(saved["measured"]),
        "source": isinstance(content.get("source", {}), Mapping),
    }
    return [key for key, right in fits.items() if not right]


def _are_numbers(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(type(item) in (int, float) and 0 <= item < 2**16 for item in value)


def _is_measured(value: object) -> bool:
    fits = isinstance(value, (list, tuple)) and len(value) == 2 and _are_numbers(value[0]) and _are_numbers(value[1:])
    return fits and type(value[1]) is int and bool(value[0]) and min(*value[0], value[1]) > 0


def _shapes(graph: Graph) -> dict[str, tuple[int, ...]] | None:
    # A graph may ask for more than memory holds, so that its shapes are compared before it is built. None for a graph
    # with a module whose shapes depend on values.
    try:
        return state_shapes(graph)
    except UserError:
        return None


def _built(checkpoint: Checkpoint, compared: bool) -> Detector:
    model = Detector(checkpoint.graph, checkpoint.measured, compared=compared)
    return model.eval().fuse() if checkpoint.packed else model


def plain_values(value: object) -> object:
    """Return a value as torch's restricted loader gives it back: dicts, lists and plain values; else its text."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, (str, int)) else str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
