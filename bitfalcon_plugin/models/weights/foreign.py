"""Foreign checkpoints to our format and back. Knowledge about other makers' files lies in compat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...compat.allowed import cut_line
from ...compat.families import TABLES, Recognised, Unrecognised, family_of_ours, recognise
from ...compat.reader import ForeignContent, foreign_content, uncollected
from ...compat.remap import RemapError, apply, invert
from ...config.errors import UserError, blaming, raise_problems
from ...config.notes import print_note, print_note_once
from ...config.printable import say
from ...config.settings import draft_of
from ...config.weight_files import find_weights
from ...config.yaml_files import find_model
from ...ops.keypoint_layout import KEYS, KeypointLayout, read_layout
from ..build import resolve_graph, state_shapes
from ..graph.document import LISTS
from ..graph.rows import Graph
from ..modules import entry
from .checkpoint import MAX_LICENSE, MAX_TEXT, WITHOUT_GRAPH, Checkpoint, checkpoint_from, own_content
from .files import load_weights, write_state

ADOPTED_SETTINGS = ("data", "imgsz", "single_cls")  # training settings that are copied from a foreign checkpoint
MAX_EPOCH = 10**6
COARSEST = 32  # pixels a cell of the last row of the backbone, in every shipped graph of a family
PLAIN = (str, int, float, bool, type(None))  # values of a YAML


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A checkpoint of another maker. foreign: its content. recognised: family, size and head, as its tensors tell."""

    path: Path
    foreign: ForeignContent
    recognised: Recognised

    @property
    def names(self) -> dict[int, str]:
        """Class index to name; empty where the file has no names for exactly its classes."""
        names = self.foreign.attributes.get("names")
        names = dict(enumerate(names)) if isinstance(names, (list, tuple)) else names
        fits = isinstance(names, Mapping) and len(names) == self.recognised.nc
        fits = fits and {str(key) for key in names} == {str(index) for index in range(self.recognised.nc)}
        return {index: cut_line(name, MAX_TEXT) for index, name in enumerate(_by_index(names))} if fits else {}

    @property
    def keypoints(self) -> KeypointLayout | None:
        """The keypoints of an object, where the file says how many there are."""
        document = self.foreign.attributes.get("yaml")
        if self.recognised.task != "pose" or not isinstance(document, Mapping):
            return None
        return read_layout(
            {"kpt_shape": document.get("kpt_shape"), **_keypoint_keys(self, document)}, self.recognised.nc, []
        )

    @property
    def license(self) -> str | None:
        """The licence string of the file."""
        text = self.foreign.attributes.get("license")
        return cut_line(text, MAX_LICENSE) if isinstance(text, str) and text.strip() else None

    @property
    def epoch(self) -> int:
        """The 0-based epoch of the weights; -1 where the file has none, as of every finished run."""
        epoch = self.foreign.attributes.get("epoch")
        return epoch if type(epoch) is int and -1 <= epoch < MAX_EPOCH else -1

    @property
    def date(self) -> str:
        """The date of the file as it is written there."""
        date = self.foreign.attributes.get("date")
        return cut_line(date, MAX_TEXT) if isinstance(date, str) else ""

    def describe(self) -> str:
        """Return family, size, task, classes, tensors, epoch, date and licence in one line, then the notes."""
        recognised = self.recognised
        variant = f" (variant {recognised.variant})" if recognised.variant not in ("", recognised.family) else ""
        parts = [
            f"family {recognised.family}{variant}",
            f"scale {recognised.scale or 'of its own'}",
            recognised.task,
            f"{recognised.nc} classes",
            f"{len(self.foreign.state)} tensors",
            "float16" if self.foreign.half else "float32",
            self.foreign.layout,
            f"epoch {self.epoch}",
        ]
        if self.date:
            parts.append(f"date {self.date}")
        license_text = (self.license or "not stated in the file")[:MAX_TEXT]
        line = f"{self.path}: {', '.join(parts)}; licence: {license_text}"
        return "\n".join((line, *(f"note: {note}" for note in self.notes)))

    @property
    def notes(self) -> list[str]:
        """A line for each thing that is unusual in the file."""
        notes = list(self.foreign.notes)
        if self.foreign.attributes.get("names") is not None and not self.names:
            last = self.recognised.nc - 1
            notes.append(f"its class names are not those of classes 0 to {last}: they are left out")
        return notes


@uncollected()
def identify_checkpoint(path: str | Path) -> Checkpoint | ForeignCheckpoint:
    """Read a checkpoint in our format or a foreign one, whose family is recognised. No code of the file runs.

    Raises MissingFileError, or UserError that says what the file is instead.
    """
    path = find_weights(path)
    loaded = load_weights(path)
    with blaming(path):
        if (content := own_content(loaded.content)) is not None:
            return checkpoint_from(content, path)
        foreign = foreign_content(loaded)
        try:
            return ForeignCheckpoint(path, foreign, recognise(foreign.state))
        except Unrecognised as error:
            raise UserError(f"'{path}' holds tensors, but {error}.") from error


@uncollected()
def open_checkpoint(path: str | Path, say: Callable[[str], None] = say, brief: bool = False) -> Checkpoint:
    """Return the Checkpoint of a model, ours or foreign. `say` gets a foreign file's description, and the licence.

    brief: in the place of `say` there are notes: each licence once a process, and what is wrong with the file.

    Raises MissingFileError, or UserError for a file that is no checkpoint of a model.
    """
    opened = identify_checkpoint(path)
    is_ours = isinstance(opened, Checkpoint)
    if is_ours and not opened.graph.rows:
        raise UserError(f"'{path}' is {WITHOUT_GRAPH.format(opened.source.get('task', 'foreign'))}.")
    checkpoint = opened if is_ours else to_checkpoint(opened)
    license = opened.license and f"{path}: licence of the weights it comes from: {opened.license[:MAX_TEXT]}"
    if brief:
        print_note(*(() if is_ours else opened.notes))
        if license:
            print_note_once(license, key=opened.license)
    elif not is_ours:
        say(opened.describe())
    elif license:
        say(license)
    return checkpoint


def to_checkpoint(opened: ForeignCheckpoint) -> Checkpoint:
    """Convert a foreign model. Every tensor is used; otherwise a UserError lists all problems."""
    with blaming(opened.path):
        return _converted(opened)


def _converted(opened: ForeignCheckpoint) -> Checkpoint:
    graph = _graph(opened)
    try:
        state, report = apply(TABLES[opened.recognised.family], opened.foreign.state, state_shapes(graph))
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
        norms=_norms(opened.foreign, report.converted, entry(graph.rows[-1].module).rule.norm),
        source=_source(opened),
        measured=_measured(opened, graph),
        compared=True,
    )


def _by_index(names: Mapping) -> list:
    return [names[key] for key in sorted(names, key=int)]


def _settings(foreign: ForeignContent) -> dict[str, object]:
    # A value that our settings refuse would stop every verb, with a complaint about something that the user never gave.
    arguments = foreign.attributes.get("train_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    if (side := _resized_to(foreign.attributes.get("transforms"))) and arguments.get("imgsz") is None:
        arguments = {**arguments, "imgsz": side}
    given = {key: arguments[key] for key in ADOPTED_SETTINGS if arguments.get(key) is not None}
    is_text = {key: isinstance(value, str) for key, value in given.items()}
    printable = {key: value for key, value in given.items() if not is_text[key] or value.isprintable()}
    return {key: value for key, value in printable.items() if not draft_of({key: value}).problems}


def _resized_to(transforms: object) -> object:
    # The side that the images of a classification model are resized to, as its file says; None where it does not.
    steps = transforms.get("transforms") if isinstance(transforms, Mapping) else None
    steps = [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, (list, tuple)) else []
    return next((step.get("size") for step in steps if step.get("class") == "Resize"), None)


def _graph(opened: ForeignCheckpoint) -> Graph:
    recognised = opened.recognised
    document, name = _document(opened)
    scale = recognised.scale or str(document.get("scale") or "")
    left_out = ("nc", "names", "scale", "variant", "class_width")
    document = {key: value for key, value in document.items() if key not in left_out} | _keypoint_keys(opened, document)
    head = f"model.{sum(len(document.get(part) or []) for part in LISTS) - 1}."
    boxes, classes = (opened.foreign.state.get(head + key) for key in ("cv2.0.0.conv.weight", "cv3.0.2.weight"))
    if boxes is not None and classes is not None and classes.shape[1] != max(boxes.shape[1], min(recognised.nc, 100)):
        document["class_width"] = classes.shape[1]  # fine-tuned from a model of other classes
    return resolve_graph(
        document,
        name=name,
        named_scale=scale,
        variant=recognised.variant or None,
        nc=recognised.nc,
        names=opened.names or None,
    )


def _keypoint_keys(opened: ForeignCheckpoint, document: Mapping[str, object]) -> dict[str, object]:
    # What the model says of its keypoints beside its YAML. What our own keys refuse is left out.
    keys = {}
    for key in KEYS:
        problems: list[str] = []
        value = {"kpt_shape": document.get("kpt_shape"), key: opened.foreign.attributes.get(key)}
        layout = read_layout(value, opened.recognised.nc, problems)
        if layout is not None and not problems:
            keys |= layout.as_keys()
    if names := keys.get("kpt_names"):
        keys["kpt_names"] = {index: [cut_line(name, MAX_TEXT) for name in row] for index, row in names.items()}
    return keys


def _document(opened: ForeignCheckpoint) -> tuple[Mapping[str, object], str]:
    # The model YAML in the file, or the shipped one of its family; and the name for messages.
    document, recognised = opened.foreign.attributes.get("yaml"), opened.recognised
    instead = "Give the graph as model= and this file as pretrained= ."
    if not isinstance(document, Mapping):
        if not recognised.graph or not recognised.scale:
            raise UserError(
                f"'{opened.path}' holds a graph of its own ({recognised.family}) without its YAML. {instead}"
            )
        shipped = find_model(recognised.graph)
        shape, values = shipped.document.get("kpt_shape"), recognised.keypoint_values
        if shape is not None and shape[0] * shape[1] != values:
            raise UserError(
                f"'{opened.path}' has {values} values for the keypoints of an object, and does not say of how many "
                f"keypoints. {instead}"
            )
        return shipped.document, shipped.path.name
    if not _is_plain(document) or not all(isinstance(document.get(part) or [], list) for part in LISTS):
        raise UserError(
            f"'{opened.path}' carries a model YAML that is none: its {', '.join(LISTS)} are no lists of rows of plain "
            f"values. {instead}"
        )
    return document, opened.path.name


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, (str, int)) and _is_plain(item) for key, item in value.items())
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else isinstance(value, PLAIN)


def _source(opened: ForeignCheckpoint) -> dict[str, object]:
    folded = any(key.endswith(".attn.pe.conv.bias") for key in opened.foreign.state)
    return {"family": opened.recognised.family, "task": opened.recognised.task, "folded": folded}


def _measured(opened: ForeignCheckpoint, graph: Graph) -> tuple[tuple[int, ...], int] | None:
    # Known without running an image where the rows are those of a shipped graph.
    if not (opened.recognised.graph and opened.recognised.strides):
        return None
    shipped = find_model(opened.recognised.graph).document
    same = all(graph.document.get(part) == shipped.get(part) for part in LISTS)
    return (opened.recognised.strides, COARSEST) if same else None


def _norms(
    foreign: ForeignContent, converted_keys: Mapping[str, str], usual: tuple[float, float]
) -> dict[str, list[float]]:
    # eps and momentum of the batch norms that differ from the usual ones, by our module name
    norms = {}
    for module, eps in foreign.eps.items():
        our_module = converted_keys.get(f"{module}.weight", "").removesuffix(".weight")
        momentum = foreign.momentum.get(module)
        momentum = usual[1] if momentum is None else momentum
        if our_module and (eps, momentum) != usual:
            norms[our_module] = [float(eps), float(momentum)]
    return norms


def save_state_dict(checkpoint: Checkpoint, family: str, path: str | Path) -> dict[str, Tensor]:
    """Write a plain state dict in a family's own keys, which torch.load opens with its defaults; returns it.

    As safetensors where the name says so. The licence of the weights is written into the metadata beside the tensors.
    Raises UserError when the weights belong to another family, or are packed.
    """
    if checkpoint.packed:
        raise UserError(
            f"to={family}: a packed model has codes instead of weights, and other makers' keys have no place for them. "
            "Convert the checkpoint that it was packed from."
        )
    own = family_of_ours(checkpoint.state, checkpoint.graph.variant)
    if family != own:
        raise UserError(f"to={family}: these are {own} weights; give to={own}.")
    inverted = invert(TABLES[family], checkpoint.state, bool(checkpoint.source.get("folded")))
    state = {key: tensor.contiguous() for key, tensor in inverted.items()}
    write_state(path, state, checkpoint.license)
    return state
