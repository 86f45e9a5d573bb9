"""What settings name, found and checked: the graph, the dataset and its splits, a legal image side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .config import Settings
from .errors import UserError
from .graph import Graph
from .model import Detector, read_graph

if TYPE_CHECKING:  # predicting needs no dataset
    from .data.dataset import Scan
    from .data.spec import DataSpec

DEFAULT_MODEL, DEFAULT_DATA = "yolov12.yaml", "shapes.yaml"


def is_weights(model: str | Path) -> bool:
    """Whether `model` names a checkpoint rather than a graph."""
    return Path(model).suffix.lower() in (".pt", ".pth")


def given(settings: Settings) -> dict[str, object]:
    """The settings the user gave, as plain values."""
    return {key: value for key, value in settings.as_dict().items() if key in settings.given}


def class_names(settings: Settings, data: DataSpec) -> dict[int, str]:
    """The classes that a model of these data knows."""
    return {0: "item"} if settings.single_cls else data.names


def graph_for(source: str, settings: Settings, data: DataSpec | None = None) -> Graph:
    """The graph that `source` and the settings name, for the classes of `data`; says what was chosen."""
    names = class_names(settings, data) if data else None
    graph = read_graph(source, settings.model_scale or "", variant=settings.variant, nc=len(names) if names else None, names=names)
    for note in graph.notes:
        print(note)
    return graph


def find_data(settings: Settings) -> tuple[DataSpec, Settings]:
    """The dataset, and the settings with what the dataset brings along where nobody gave it."""
    from .data.spec import load_data

    if settings.data is None:
        data = load_data(DEFAULT_DATA)
        print(f"No data= is given: using the generated dataset 'shapes' in {data.root} (its data.yaml is an example to copy)")
    else:
        data = load_data(settings.data, allow_outside=settings.allow_outside)
    for note in data.notes:
        print(f"note: {note}", file=sys.stderr)
    brought = {key: value for key, value in data.settings.items() if key not in settings.given}
    if brought:
        print("Settings of this dataset, where none were given: " + ", ".join(f"{k}={v}" for k, v in brought.items()))
    # a path is kept whole, so that the run can be resumed and its weights validated from any folder
    settings = settings.replace(**brought, data=DEFAULT_DATA if settings.data is None else str(data.path.resolve()))
    if not isinstance(settings.imgsz, int):
        raise UserError(f"imgsz={settings.imgsz}: training and validation take one side, for example imgsz={max(settings.imgsz)}.")
    return data, settings


def legal_side(settings: Settings, model: Detector) -> Settings:
    """imgsz rounded up to what the model can take; says so."""
    side = -(-settings.imgsz // model.multiple) * model.multiple
    if side != settings.imgsz:
        print(f"imgsz={settings.imgsz} is no multiple of {model.multiple}, which this model needs; using {side}")
    return settings.replace(imgsz=side)


def scan_split(data: DataSpec, split: str, settings: Settings) -> Scan:
    """Look through a split and say what is in it."""
    from .data.dataset import scan

    found = scan(data, split, single_cls=settings.single_cls, classes=settings.classes,
                 fraction=settings.fraction if split == "train" and settings.mode == "train" else 1.0)
    print(f"{split:>9}: {len(found.samples)} images, {found.missing + found.empty} backgrounds, {found.unreadable} unreadable, "
          f"{sum(len(sample.boxes) for sample in found.samples)} boxes ({data.path})")
    for note in found.notes[:20]:
        print(f"note: {note}", file=sys.stderr)
    if len(found.notes) > 20:
        print(f"note: ... and {len(found.notes) - 20} more", file=sys.stderr)
    return found

