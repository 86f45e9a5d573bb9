"""Other makers' checkpoints as ours, and ours in their layouts. What is known of their files lies in compat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import FORMAT, Checkpoint, parse
from .compat.families import TABLES, Recognised, recognise
from .compat.reader import Foreign, foreign_of, unpack
from .compat.remap import RemapError, apply, invert
from .choices import LISTS
from .errors import UserError, raise_problems
from .files import atomic
from .graph import Graph
from .locate import find_model
from .model import graph_of, state_shapes
from .modules.conv import EPS, MOMENTUM

KEPT_SETTINGS = ("data", "imgsz", "single_cls")  # of the maker's training settings: what a run remembers


@dataclass(frozen=True)
class Opened:
    """A foreign file and what its tensors say."""

    path: Path
    foreign: Foreign
    found: Recognised

    @property
    def names(self) -> dict[int, str]:
        """Class index to name as the file has it; empty where it has none that fit."""
        names = self.foreign.attributes.get("names")
        names = dict(enumerate(names)) if isinstance(names, (list, tuple)) else names
        fits = isinstance(names, Mapping) and len(names) == self.found.nc
        return {int(key): str(name) for key, name in names.items()} if fits else {}

    @property
    def license(self) -> str | None:
        """The licence string of the file."""
        text = self.foreign.attributes.get("license")
        return str(text) if text else None

    def describe(self) -> str:
        """One line: family, size, task, classes, epoch, date, licence, tensors."""
        found, attributes = self.found, self.foreign.attributes
        parts = [f"family {found.family}" + (f" (variant {found.variant})" if found.variant not in ("", found.family) else ""),
                 f"scale {found.scale or 'of its own'}", found.task, f"{found.nc} classes", f"{len(self.foreign.state)} tensors",
                 "float16" if self.foreign.half else "float32", self.foreign.layout]
        parts += [f"{key} {attributes[key]}" for key in ("epoch", "date") if attributes.get(key) is not None]
        return f"{self.path}: " + ", ".join(parts) + f"; licence: {self.license or 'not stated in the file'}"


def open_any(path: str | Path) -> Checkpoint | Opened:
    """Read a checkpoint: one of ours, or another maker's, whose weights are recognised. Nobody's code runs.

    Raises MissingFileError, or UserError with what the file is instead.
    """
    unpacked = unpack(path)
    if isinstance(unpacked.content, dict) and unpacked.content.get("format") == FORMAT:
        return parse(unpacked.content, path)
    foreign = foreign_of(unpacked)
    try:
        return Opened(Path(path), foreign, recognise(foreign.state))
    except ValueError as error:
        raise UserError(f"'{path}' holds tensors, but {error}.") from error


def load_any(path: str | Path, say: Callable[[str], None] = print) -> Checkpoint:
    """A Checkpoint from our file or another maker's detector; says what a foreign file is, and its licence."""
    opened = open_any(path)
    if isinstance(opened, Checkpoint):
        return opened
    checkpoint = to_checkpoint(opened)
    for line in (opened.describe(), *opened.foreign.notes):
        say(line)
    return checkpoint


def to_checkpoint(opened: Opened) -> Checkpoint:
    """Map a detector's weights into our layout; every tensor is used or the problems are raised together."""
    graph = _graph(opened)
    try:
        state, report = apply(TABLES[opened.found.family], opened.foreign.state, state_shapes(graph))
    except RemapError as error:
        raise_problems(f"'{opened.path}' does not fit its graph ({graph.name}, scale {graph.scale or 'none'}, variant "
                       f"{graph.variant}):", error.problems)
    attributes = opened.foreign.attributes
    arguments = attributes.get("train_args") if isinstance(attributes.get("train_args"), Mapping) else {}
    epoch = attributes.get("epoch")
    return Checkpoint(graph, state, settings={key: arguments[key] for key in KEPT_SETTINGS if arguments.get(key) is not None},
                      epoch=epoch if isinstance(epoch, int) else -1, license=opened.license, date=str(attributes.get("date") or ""),
                      norms=_norms(opened.foreign, report.kept), source=_source(opened), measured=_measured(opened, graph))


def _graph(opened: Opened) -> Graph:
    found, attributes = opened.found, opened.foreign.attributes
    if found.task != "detect":
        raise UserError(f"'{opened.path}' is a {found.task} checkpoint ({found.family}, scale {found.scale}): its head comes with a "
                        "later version. `bitfalcon info` and `bitfalcon convert` work on it.")
    document, name = attributes.get("yaml"), opened.path.name
    if not isinstance(document, Mapping):
        if not found.graph or not found.scale:
            raise UserError(f"'{opened.path}' holds a graph of its own ({found.family}) without its YAML. Give the graph as model= "
                            "and this file as pretrained= .")
        shipped = find_model(found.graph)
        document, name = shipped.document, shipped.path.name
    scale = found.scale or str(document.get("scale") or "")
    document = {key: value for key, value in document.items() if key not in ("nc", "names", "scale", "variant", "class_width")}
    head = f"model.{sum(len(document.get(part) or []) for part in LISTS) - 1}."
    boxes, classes = (opened.foreign.state.get(head + key) for key in ("cv2.0.0.conv.weight", "cv3.0.2.weight"))
    if boxes is not None and classes is not None and classes.shape[1] != max(boxes.shape[1], min(found.nc, 100)):
        document["class_width"] = classes.shape[1]  # fine-tuned from a model of other classes
    return graph_of(document, name=name, named_scale=scale, variant=found.variant or None, nc=found.nc,
                    names=opened.names or None)


def _source(opened: Opened) -> dict[str, object]:
    folded = any(key.endswith(".attn.pe.conv.bias") for key in opened.foreign.state)
    return {"family": opened.found.family, "task": opened.found.task, "folded": folded}


def _measured(opened: Opened, graph: Graph) -> tuple[tuple[int, ...], int] | None:
    # Known without running an image where the rows are those of a shipped graph.
    if not (opened.found.graph and opened.found.strides):
        return None
    shipped = find_model(opened.found.graph).document
    same = all(graph.document.get(part) == shipped.get(part) for part in LISTS)
    return (opened.found.strides, max(opened.found.strides)) if same else None


def _norms(foreign: Foreign, kept: Mapping[str, str]) -> dict[str, list[float]]:
    # eps and momentum of the batch norms that differ from ours, by our module name
    found = {}
    for module, eps in foreign.eps.items():
        ours = kept.get(f"{module}.weight", "").removesuffix(".weight")
        momentum = foreign.momentum.get(module)
        momentum = MOMENTUM if momentum is None else momentum
        if ours and (eps, momentum) != (EPS, MOMENTUM):
            found[ours] = [float(eps), float(momentum)]
    return found


def convert_foreign(opened: Opened) -> Checkpoint:
    """A foreign file as a Checkpoint to be written; of other tasks, whose heads are not built here, without resolved rows."""
    if opened.found.task == "detect":
        return to_checkpoint(opened)
    found, attributes = opened.found, opened.foreign.attributes
    state, _ = apply(TABLES[found.family], opened.foreign.state, None)
    document = attributes.get("yaml") if isinstance(attributes.get("yaml"), Mapping) else {}
    graph = Graph(opened.path.name, document, (), found.nc, opened.names, found.scale, found.variant, None, 3)
    return Checkpoint(graph, state, license=opened.license, source=_source(opened))


def convert_ours(checkpoint: Checkpoint, family: str, path: str | Path) -> dict[str, Tensor]:
    """Write a plain state dict in a family's own keys, which torch.load opens with its defaults; returns it.

    Raises UserError when the weights belong to another family.
    """
    variant = checkpoint.graph.variant
    if variant and family != ("v1" if variant == "v1" else "turbo"):
        raise UserError(f"to={family}: these are {variant} weights; give to={'v1' if variant == 'v1' else 'turbo'}.")
    state = {key: tensor.contiguous() for key, tensor in invert(TABLES[family], checkpoint.state,
                                                                            bool(checkpoint.source.get("folded"))).items()}
    with atomic(path) as temporary:
        torch.save(state, temporary)
    return state
