"""What `bitfalcon info` prints of a graph and of a checkpoint, one line about a checkpoint included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config.printable import say
from ..config.settings import Settings
from .build import task_of_graph
from .detector import Detector
from .graph.rows import Graph
from .summary import Summary, packed_lines, show_info
from .weights.checkpoint import MAX_TEXT, Checkpoint
from .weights.foreign import ForeignCheckpoint, identify_checkpoint


@dataclass(frozen=True)
class Description:
    """What `bitfalcon info` printed, as plain values for json=True."""

    entries: Mapping[str, object]

    def as_dict(self) -> dict[str, object]:
        """The entries, for JSON."""
        return dict(self.entries)


def show_graph(graph: Graph, settings: Settings) -> Description:
    """Print the rows and totals of a graph. Only shapes are computed, no weights are made."""
    with torch.device("meta"):
        model = Detector(graph)
    return Description({**_about_graph(graph), **_sizes(show_info(model, settings))})


def show_checkpoint(path: str, settings: Settings) -> Description:
    """Print what a checkpoint holds, and the rows and totals of its graph.

    A foreign checkpoint and one without its graph are shown without rows: none is built.
    """
    opened = identify_checkpoint(path)
    print_description(path, opened)
    is_ours = isinstance(opened, Checkpoint)
    names = opened.graph.names if is_ours else opened.names
    say(f"classes: {', '.join(names.values()) or 'not named in the file'}")
    if keypoints := opened.graph.keypoints if is_ours else opened.keypoints:
        words = ", ".join(keypoints.name(index) for index in range(keypoints.count)) if keypoints.names else "no names"
        say(f"keypoints: kpt_shape {list(keypoints.shape)}, {words}")
    entries = {"path": str(path), **(_about_ours(opened) if is_ours else _about_foreign(opened)), "names": names}
    entries["kpt_shape"] = list(keypoints.shape) if keypoints else None
    if is_ours and opened.graph.rows:
        return Description({**show_graph(opened.graph, settings).entries, **entries})
    return Description(entries)


def _about_graph(graph: Graph) -> dict[str, object]:
    keys = {"graph": graph.name, "scale": graph.scale, "variant": graph.variant, "classes": graph.nc}
    return {"kind": "graph", **keys, "task": task_of_graph(graph), "names": graph.names}


def _sizes(summary: Summary) -> dict[str, object]:
    keys = ("layers", "parameters", "gradients", "gflops")
    columns = ("index", "from", "repeats", "parameters", "module", "arguments")
    rows = [dict(zip(columns, row, strict=True)) for row in summary.rows]
    return {**{key: getattr(summary, key) for key in keys}, "rows": rows}


def _about_ours(opened: Checkpoint) -> dict[str, object]:
    return {
        "kind": "checkpoint",
        "graph": opened.graph.name,
        "scale": opened.graph.scale,
        "family": opened.source.get("family"),
        "task": task_of_graph(opened.graph) if opened.graph.rows else opened.source.get("task", "detect"),
        "classes": opened.graph.nc,
        "tensors": len(opened.state),
        "packed": opened.packed or None,
        "epoch": opened.epoch,
        "date": opened.date,
        "licence": opened.license,
        "settings": opened.settings,
        "metrics": opened.metrics,
    }


def _about_foreign(opened: ForeignCheckpoint) -> dict[str, object]:
    recognised = opened.recognised
    keys = ("family", "variant", "scale", "task")
    return {
        "kind": "foreign checkpoint",
        **{key: getattr(recognised, key) for key in keys},
        "classes": recognised.nc,
        "tensors": len(opened.foreign.state),
        "layout": opened.foreign.layout,
        "epoch": opened.epoch,
        "date": opened.date,
        "licence": opened.license,
        "notes": opened.notes,
    }


def print_description(path: str | Path, opened: Checkpoint | ForeignCheckpoint) -> None:
    """Print what a checkpoint, ours or a foreign one, says of itself: family, task, classes, date, licence, ..."""
    if not isinstance(opened, Checkpoint):
        say(opened.describe())
        return
    graph, family = opened.graph, opened.source.get("family", "of no other maker")
    task = task_of_graph(graph) if graph.rows else opened.source.get("task", "detect")
    for line in packed_lines(opened, path):
        say(line)
    say(
        f"{path}: bitfalcon checkpoint, {graph.name} scale={graph.scale or 'none'}, family {family}, "
        f"{task}, {graph.nc} classes, {len(opened.state)} tensors, "
        f"epoch {opened.epoch + 1}, {opened.date}; licence: {license_text(opened)}"
    )


def license_text(checkpoint: Checkpoint) -> str:
    """The licence of a checkpoint's weights for a line of output, at most MAX_TEXT letters."""
    return (checkpoint.license or "not stated")[:MAX_TEXT]
