"""The graphs and the weights at hand: `bitfalcon models`, and `list_models` of scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path, PurePath

import torch

from ..config.errors import UserError
from ..config.files import cfg_dir, sha256_of
from ..config.notes import print_note
from ..config.weight_files import SUFFIXES, is_hub_folder, weight_folders
from ..config.yaml_files import find_model, load_yaml, scale_letter, shipped_models
from .build import read_graph, task_of_document, task_of_graph
from .detector import Detector
from .graph.rows import Graph
from .weights.checkpoint import Checkpoint
from .weights.foreign import identify_checkpoint

MAX_FILES = 1000  # of one folder that are looked at
LICENCE = "MIT"  # of the graphs, as of the code
FAMILY = re.compile(r"(yolo(?:e-)?v?\d+)")


@dataclass(frozen=True)
class ModelEntry:
    """A graph in one scale, or a file of weights.

    name: what model= and YOLO(...) take. kind: "graph" or "weights". path: of the file. scale: its letter, or "".
    licence: of the weights, None where the file does not state it; of a graph that of its file.
    """

    name: str
    kind: str
    path: Path
    scale: str
    task: str
    classes: int
    licence: str | None
    _graph: Graph | None = None
    _counted: int | None = None

    @cached_property
    def parameters(self) -> int | None:
        """Trainable and fixed parameters, without the statistics of batch norms; of a foreign file all its values."""
        if self._graph is None or self._counted is not None:
            return self._counted
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in Detector(self._graph).parameters())

    def as_dict(self) -> dict[str, object]:
        """The entry as plain values."""
        keys = ("name", "kind", "scale", "task", "parameters", "classes", "licence")
        return {**{key: getattr(self, key) for key in keys}, "path": str(self.path)}

    def line(self) -> str:
        """The entry as a line of the command's table."""
        count = "-" if self.parameters is None else f"{self.parameters:,}"
        licence = self.licence or "not stated"
        return f"{self.name:<32}{self.scale or '-':<7}{self.task:<10}{count:>13}  {self.kind:<9}{licence[:60]}"


HEAD = f"{'name':<32}{'scale':<7}{'task':<10}{'parameters':>13}  {'kind':<9}licence"


def list_models(pattern: str = "*") -> list[ModelEntry]:
    """List the graphs and weights at hand whose names fit a pattern such as "yolov12*"; case does not matter.

    Graphs: those of cfg/models and the YAML files of the working folder that are graphs, in every scale. Weights: the
    files and folders in the working folder and where a bare name is looked for. The pattern may fit the name with its
    scale (yolov12n.yaml), the file's name, or either without the suffix. Files that are no models are left out.
    """
    return list(iterate_models(pattern))


def iterate_models(pattern: str = "*") -> Iterator[ModelEntry]:
    """Yield the entries of `list_models` one by one: weights are opened as they come."""
    if not isinstance(pattern, str) or not pattern.strip():
        raise UserError(f"list_models({pattern!r}): expected a pattern, for example 'yolov12*'.")
    yield from _graphs(pattern.strip().lower())
    seen: set[Path] = set()
    for folder in (Path("."), *weight_folders()):
        for path in _weights_in(folder):
            if path.resolve() not in seen and _fits(pattern.strip().lower(), path.name):
                seen.add(path.resolve())
                entry = _weights(path)
                if entry is not None:
                    yield entry


def counted_parameters(path: Path) -> dict[str, int]:
    """Scale -> parameters of a graph that is shipped, known by the content of its file; of any other graph nothing."""
    return _parameter_table().get(sha256_of(path), {}).get("counts", {})


@cache
def _parameter_table() -> dict[str, dict]:
    """The table cfg/parameters.yaml, by the SHA-256 of a file."""
    return load_yaml(cfg_dir() / "parameters.yaml")


def _graphs(pattern: str) -> Iterator[ModelEntry]:
    own = sorted(path.name for path in Path(".").glob("*.y*ml") if path.suffix in (".yaml", ".yml"))[:MAX_FILES]
    for name in dict.fromkeys((*own, *shipped_models())):
        try:
            file = find_model(name)
            if not isinstance(file.document.get("head"), list) or "backbone" not in file.document:
                continue
            scales = file.document.get("scales")
            counted = counted_parameters(file.path)
            for scale in scales if isinstance(scales, dict) and scales else ("",):
                typed = _with_letter(name, str(scale))
                if _fits(pattern, typed, name):
                    task, count = task_of_document(file.document), counted.get(str(scale))
                    graph = read_graph(name, str(scale)) if count is None else None
                    given = (str(scale), file.document["nc"]) if graph is None else (graph.scale, graph.nc)
                    yield ModelEntry(
                        typed, "graph", file.path, given[0], task, given[1], _licence(file.path), graph, count
                    )
        except UserError as error:
            if _fits(pattern, name):
                print_note(f"'{name}' is left out: {str(error).splitlines()[0]}")


def _licence(path: Path) -> str | None:
    return LICENCE if path.name in shipped_models() and not Path(path.name).exists() else None


def _with_letter(name: str, scale: str) -> str:
    typed = FAMILY.sub(rf"\g<1>{scale}", name, count=1)
    return typed if scale_letter(typed) == scale else name


def _weights_in(folder: Path) -> list[Path]:
    """The files and folders of weights that lie directly in a folder, sorted."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES or is_hub_folder(path))
    except OSError:
        return []
    if len(paths) > MAX_FILES:
        print_note(f"'{folder}' holds {len(paths)} files of weights: the first {MAX_FILES} are listed.")
    return paths[:MAX_FILES]


def _weights(path: Path) -> ModelEntry | None:
    """The entry of a file of weights; None, with a note, for a file that is none."""
    try:
        opened = identify_checkpoint(path)
    except UserError as error:
        print_note(f"left out: {str(error).splitlines()[0]}")
        return None
    if isinstance(opened, Checkpoint):
        graph = opened.graph
        task = task_of_graph(graph) if graph.rows else str(opened.source.get("task", "detect"))
        given = graph.scale, task, graph.nc, opened.license
        return ModelEntry(str(path), "weights", path, *given, graph if graph.rows else None)
    recognised, foreign = opened.recognised, opened.foreign
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(value.numel() for key, value in foreign.state.items() if key.rpartition(".")[2] not in statistics)
    given = recognised.scale or "", recognised.task, recognised.nc, opened.license
    return ModelEntry(str(path), "weights", path, *given, None, count)


def _fits(pattern: str, *names: str) -> bool:
    known = {form for name in names for form in (name.lower(), PurePath(name.lower()).stem)}
    return any(fnmatchcase(form, pattern) for form in known)
