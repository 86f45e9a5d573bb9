"""From the name of a model YAML to a Graph and to a Detector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ..compat.families import SUFFIXES
from ..config.errors import MissingFileError, UserError, raise_problems
from ..config.notes import print_note
from ..config.printable import say
from ..config.settings import Settings
from ..config.yaml_files import find_model
from ..ops.keypoint_layout import KeypointLayout
from .bitify import apply_policies
from .detector import Detector
from .graph.document import LISTS, Overrides
from .graph.rows import Graph, resolve
from .modules import entry, known_modules, lookup
from .trial import build_row

DEFAULT_MODEL = "yolov12.yaml"
LEVELS = re.compile(r"(.*?)((?:-p\d+)?)", re.DOTALL)  # a graph's name, and its levels where they are not the usual ones


def task_of_document(document: Mapping[str, object]) -> str:
    """The task that the last row of a model YAML names; detect where it is no head that is known."""
    rows = [row for part in LISTS for row in (document.get(part) or ()) if isinstance(row, (list, tuple))]
    name = rows[-1][2] if rows and len(rows[-1]) > 2 else None
    try:
        return entry(str(name)).rule.task
    except KeyError:
        return "detect"


def model_for_task(model: str | None, task: str | None) -> str:
    """Return the model of a task: `model`, or where that is a shipped graph of another task, the one of `task`.

    model: None stands for the default graph. task: None: any. Raises UserError for a graph of another task that has no
    counterpart.
    """
    model = model or DEFAULT_MODEL
    if task is None or Path(model).suffix.lower() not in (".yaml", ".yml"):
        return model
    file = find_model(model)
    own = task_of_document(file.document)
    if own == task:
        return model
    stem, levels = LEVELS.fullmatch(Path(model).stem).groups()
    other = str(Path(model).with_name(f"{stem.removesuffix(SUFFIXES[own])}{SUFFIXES[task]}{levels}.yaml"))
    try:
        fits = task_of_document(find_model(other).document) == task
    except MissingFileError:
        fits = False
    if not fits:
        raise UserError(
            f"model={model} is a graph for task={own}, and there is no '{other}' for task={task}. Give a graph of that "
            f"task, for example model={DEFAULT_MODEL.replace('.yaml', SUFFIXES[task] + '.yaml')}, or leave task= away."
        )
    if model != DEFAULT_MODEL:
        print_note(f"model={model} is a graph for task={own}; using {other} for task={task}.")
    return other


def graph_from_settings(source: str, settings: Settings) -> Graph:
    """Read the graph that `source` and the settings name; prints the graph's notes."""
    graph = read_graph(source, settings.model_scale or "", variant=settings.variant)
    for note in graph.notes:
        say(note)
    return graph


def build(
    model: str | Path = "yolov12.yaml",
    scale: str = "",
    *,
    variant: str | None = None,
    nc: int | None = None,
    names: Mapping[int, str] | None = None,
) -> Detector:
    """Build a Detector with fresh weights from a model YAML: `build("yolov12.yaml", "n")`, `build("yolov12n.yaml")`.

    variant: v1, turbo or turbo-all-residual. nc, names: of the dataset; they win over those of the YAML.
    """
    return Detector(read_graph(model, scale, variant=variant, nc=nc, names=names))


def read_graph(
    model: str | Path,
    scale: str = "",
    *,
    variant: str | None = None,
    nc: int | None = None,
    names: Mapping[int, str] | None = None,
) -> Graph:
    """Find a model YAML and resolve it; see `build`."""
    file = find_model(model, variant)
    return resolve_graph(
        file.document, name=file.path.name, scale=scale, named_scale=file.letter, variant=variant, nc=nc, names=names
    )


def task_of_graph(graph: Graph) -> str:
    """The task that the head row of a graph names, a key of tasks.TASKS."""
    return entry(graph.rows[-1].module).rule.task


def with_classes(
    graph: Graph, names: Mapping[int, str], class_width: int | None = None, keypoints: KeypointLayout | None = None
) -> Graph:
    """Return `graph` for the classes `names`. Its rows are resolved again, since `nc` may be the width of any row.

    class_width: hidden channels of the class branches, None leaves them to the graph. keypoints: of the dataset; they
    replace those of a graph that has some.
    """
    keypoints = graph.keypoints and keypoints
    if names == graph.names and class_width is None and keypoints in (None, graph.keypoints):
        return graph
    document = graph.document if class_width is None else {**graph.document, "class_width": class_width}
    return resolve_graph(
        document,
        name=graph.name,
        named_scale=graph.scale,
        variant=graph.variant,
        nc=len(names),
        names=names,
        keypoints=keypoints,
    )


def state_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a Detector of `graph` by name, without its memory.

    Raises UserError as Detector does.
    """
    problems: list[str] = []
    with torch.device("meta"):
        rows = nn.ModuleList(build_row(row, problems) for row in graph.rows)
        raise_problems(f"{graph.name} cannot be built:", problems)
        apply_policies(rows, graph)
    return {f"model.{name}": tuple(tensor.shape) for name, tensor in rows.state_dict().items()}


def resolve_graph(document: Mapping[str, object], name: str = "model", **overrides) -> Graph:
    """Resolve a document with all registered modules. name: for messages. overrides: see graph.document.Overrides."""
    return resolve(document, lookup, known_modules(), name, Overrides(**overrides))
