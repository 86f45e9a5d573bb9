"""Other makers' checkpoints as ours, and ours in their layouts. What is known of their files lies in compat."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...compat.allowed import one_line
from ...compat.families import TABLES, Recognised, family_of_ours, recognise
from ...compat.reader import ForeignContent, foreign_content, load_file, uncollected
from ...compat.remap import RemapError, apply, invert
from ...config.errors import UserError, raise_problems
from ...config.settings import draft_of
from ...config.yaml_files import find_model
from ..build import resolve_graph, state_shapes
from ..graph.document import LISTS
from ..graph.rows import Graph
from ..modules.conv import EPS, MOMENTUM
from .checkpoint import (
    CHECKPOINT_FORMATS,
    MAX_LICENSE,
    MAX_TEXT,
    OTHER_TASK,
    Checkpoint,
    checkpoint_from,
    write_tensors,
)

KEPT_SETTINGS = ("data", "imgsz", "single_cls")  # of the maker's training settings: what a run remembers
MAX_EPOCH = 10**6
PLAIN = (str, int, float, bool, type(None))  # values of a YAML


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A foreign file and what its tensors say."""

    path: Path
    foreign: ForeignContent
    found: Recognised

    @property
    def names(self) -> dict[int, str]:
        """Class index to name as the file has it; empty where it has none that fit."""
        names = self.foreign.attributes.get("names")
        names = dict(enumerate(names)) if isinstance(names, (list, tuple)) else names
        fits = isinstance(names, Mapping) and len(names) == self.found.nc
        fits = fits and {str(key) for key in names} == {str(index) for index in range(self.found.nc)}
        return {index: one_line(name, MAX_TEXT) for index, name in enumerate(_by_index(names))} if fits else {}

    @property
    def license(self) -> str | None:
        """The licence string of the file."""
        text = self.foreign.attributes.get("license")
        return one_line(text, MAX_LICENSE) if isinstance(text, str) and text.strip() else None

    @property
    def epoch(self) -> int:
        """0-based, -1 where the file does not say (as of every finished run)."""
        epoch = self.foreign.attributes.get("epoch")
        return epoch if type(epoch) is int and -1 <= epoch < MAX_EPOCH else -1

    @property
    def date(self) -> str:
        """When the file was written, in its own words."""
        date = self.foreign.attributes.get("date")
        return one_line(date, MAX_TEXT) if isinstance(date, str) else ""

    def describe(self) -> str:
        """Family, size, task, classes, epoch, date, licence, tensors in one line; then a line for each thing to know."""
        found = self.found
        parts = [
            f"family {found.family}"
            + (f" (variant {found.variant})" if found.variant not in ("", found.family) else ""),
            f"scale {found.scale or 'of its own'}",
            found.task,
            f"{found.nc} classes",
            f"{len(self.foreign.state)} tensors",
            "float16" if self.foreign.half else "float32",
            self.foreign.layout,
        ]
        parts += [f"epoch {self.epoch}"] + ([f"date {self.date}"] if self.date else [])
        line = (
            f"{self.path}: " + ", ".join(parts) + f"; licence: {(self.license or 'not stated in the file')[:MAX_TEXT]}"
        )
        unfit = self.foreign.attributes.get("names") is not None and not self.names
        wrong = [f"its class names are not those of classes 0 to {found.nc - 1}: they are left out"] if unfit else []
        return "\n".join((line, *(f"note: {note}" for note in (*self.foreign.notes, *wrong))))


@uncollected()
def identify_checkpoint(path: str | Path) -> Checkpoint | ForeignCheckpoint:
    """Read a checkpoint: one of ours, or another maker's, whose weights are recognised. Nobody's code runs.

    Raises MissingFileError, or UserError with what the file is instead.
    """
    loaded = load_file(path)
    if isinstance(loaded.content, dict) and loaded.content.get("format") in CHECKPOINT_FORMATS:
        return checkpoint_from(loaded.content, path)
    foreign = foreign_content(loaded)
    try:
        return ForeignCheckpoint(Path(path), foreign, recognise(foreign.state))
    except ValueError as error:
        raise UserError(f"'{path}' holds tensors, but {error}.") from error


@uncollected()
def open_checkpoint(path: str | Path, say: Callable[[str], None] = print) -> Checkpoint:
    """A Checkpoint from our file or another maker's detector; says what a foreign file is, and its licence."""
    opened = identify_checkpoint(path)
    if isinstance(opened, Checkpoint):
        if not opened.graph.rows:
            raise UserError(f"'{path}' is {OTHER_TASK.format(opened.source.get('task', 'foreign'))}.")
        if opened.license:
            say(f"{path}: licence of the weights it comes from: {opened.license[:MAX_TEXT]}")
        return opened
    checkpoint = to_checkpoint(opened)
    say(opened.describe())
    return checkpoint


def to_checkpoint(opened: ForeignCheckpoint) -> Checkpoint:
    """Map a detector's weights into our layout; every tensor is used or the problems are raised together."""
    graph = _graph(opened)
    try:
        state, report = apply(TABLES[opened.found.family], opened.foreign.state, state_shapes(graph))
    except RemapError as error:
        raise_problems(
            f"'{opened.path}' does not fit its graph ({graph.name}, scale {graph.scale or 'none'}, variant "
            f"{graph.variant}):",
            error.problems,
        )
    return Checkpoint(
        graph,
        state,
        settings=_settings(opened.foreign),
        epoch=opened.epoch,
        license=opened.license,
        date=opened.date,
        norms=_norms(opened.foreign, report.kept),
        source=_source(opened),
        measured=_measured(opened, graph),
        compared=True,
    )


def _by_index(names: Mapping) -> list:
    return [names[key] for key in sorted(names, key=int)]


def _settings(foreign: ForeignContent) -> dict[str, object]:
    # What does not fit our settings would stop every verb with a complaint about something that the user never gave.
    arguments = foreign.attributes.get("train_args")
    found = {key: arguments.get(key) for key in KEPT_SETTINGS} if isinstance(arguments, Mapping) else {}
    return {
        key: value
        for key, value in found.items()
        if value is not None
        and not draft_of({key: value}).problems
        and (not isinstance(value, str) or value.isprintable())
    }


def _graph(opened: ForeignCheckpoint) -> Graph:
    found, attributes = opened.found, opened.foreign.attributes
    if found.task != "detect":
        raise UserError(f"'{opened.path}' is {OTHER_TASK.format(found.task)} ({found.family}, scale {found.scale}).")
    document, name = attributes.get("yaml"), opened.path.name
    if not isinstance(document, Mapping):
        if not found.graph or not found.scale:
            raise UserError(
                f"'{opened.path}' holds a graph of its own ({found.family}) without its YAML. Give the graph as model= "
                "and this file as pretrained= ."
            )
        shipped = find_model(found.graph)
        document, name = shipped.document, shipped.path.name
    elif not _is_plain(document) or not all(isinstance(document.get(part) or [], list) for part in LISTS):
        raise UserError(
            f"'{opened.path}' carries a model YAML that is none: its {', '.join(LISTS)} are no lists of rows of plain "
            "values. Give the graph as model= and this file as pretrained= ."
        )
    scale = found.scale or str(document.get("scale") or "")
    document = {
        key: value for key, value in document.items() if key not in ("nc", "names", "scale", "variant", "class_width")
    }
    head = f"model.{sum(len(document.get(part) or []) for part in LISTS) - 1}."
    boxes, classes = (opened.foreign.state.get(head + key) for key in ("cv2.0.0.conv.weight", "cv3.0.2.weight"))
    if boxes is not None and classes is not None and classes.shape[1] != max(boxes.shape[1], min(found.nc, 100)):
        document["class_width"] = classes.shape[1]  # fine-tuned from a model of other classes
    return resolve_graph(
        document, name=name, named_scale=scale, variant=found.variant or None, nc=found.nc, names=opened.names or None
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, (str, int)) and _is_plain(item) for key, item in value.items())
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else isinstance(value, PLAIN)


def _source(opened: ForeignCheckpoint) -> dict[str, object]:
    folded = any(key.endswith(".attn.pe.conv.bias") for key in opened.foreign.state)
    return {"family": opened.found.family, "task": opened.found.task, "folded": folded}


def _measured(opened: ForeignCheckpoint, graph: Graph) -> tuple[tuple[int, ...], int] | None:
    # Known without running an image where the rows are those of a shipped graph.
    if not (opened.found.graph and opened.found.strides):
        return None
    shipped = find_model(opened.found.graph).document
    same = all(graph.document.get(part) == shipped.get(part) for part in LISTS)
    return (opened.found.strides, max(opened.found.strides)) if same else None


def _norms(foreign: ForeignContent, kept: Mapping[str, str]) -> dict[str, list[float]]:
    # eps and momentum of the batch norms that differ from ours, by our module name
    found = {}
    for module, eps in foreign.eps.items():
        ours = kept.get(f"{module}.weight", "").removesuffix(".weight")
        momentum = foreign.momentum.get(module)
        momentum = MOMENTUM if momentum is None else momentum
        if ours and (eps, momentum) != (EPS, MOMENTUM):
            found[ours] = [float(eps), float(momentum)]
    return found


def convert_foreign(opened: ForeignCheckpoint) -> Checkpoint:
    """A foreign file as a Checkpoint to be written; of other tasks, whose heads are not built here, without resolved rows."""
    if opened.found.task == "detect":
        return to_checkpoint(opened)
    found, attributes = opened.found, opened.foreign.attributes
    state, report = apply(TABLES[found.family], opened.foreign.state, None)
    document = attributes.get("yaml")
    document = document if isinstance(document, Mapping) and _is_plain(document) else {}
    graph = Graph(opened.path.name, document, (), found.nc, opened.names, found.scale, found.variant, None, 3)
    return Checkpoint(
        graph,
        state,
        epoch=opened.epoch,
        license=opened.license,
        date=opened.date,
        source=_source(opened),
        norms=_norms(opened.foreign, report.kept),
    )


def save_state_dict(checkpoint: Checkpoint, family: str, path: str | Path) -> dict[str, Tensor]:
    """Write a plain state dict in a family's own keys, which torch.load opens with its defaults; returns it.

    The licence of the weights goes along where nobody trips over it: in the metadata that torch keeps beside a state dict.
    Raises UserError when the weights belong to another family, or are packed.
    """
    if checkpoint.packed:
        raise UserError(
            f"to={family}: a packed model has codes instead of weights, and other makers' keys have no place for them. Convert "
            "the checkpoint that it was packed from."
        )
    own = family_of_ours(checkpoint.state, checkpoint.graph.variant)
    if family != own:
        raise UserError(f"to={family}: these are {own} weights; give to={own}.")
    inverted = invert(TABLES[family], checkpoint.state, bool(checkpoint.source.get("folded")))
    state = OrderedDict((key, tensor.contiguous()) for key, tensor in inverted.items())
    if checkpoint.license:
        state._metadata = {"": {"license": checkpoint.license}}
    write_tensors(path, state)
    return state
