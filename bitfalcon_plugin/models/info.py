"""What `bitfalcon info` prints of a graph and of a checkpoint, one line about a checkpoint included."""

from __future__ import annotations

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


def show_graph(graph: Graph, settings: Settings) -> Summary:
    """Print the rows and totals of a graph. Only shapes are computed, no weights are made."""
    with torch.device("meta"):
        model = Detector(graph)
    return show_info(model, settings)


def show_checkpoint(path: str, settings: Settings) -> Summary | None:
    """Print what a checkpoint holds, and the rows and totals of its graph.

    Return None, without rows, for a foreign checkpoint and for one without its graph: none is built.
    """
    opened = identify_checkpoint(path)
    print_description(path, opened)
    is_ours = isinstance(opened, Checkpoint)
    names = opened.graph.names if is_ours else opened.names
    say(f"classes: {', '.join(names.values()) or 'not named in the file'}")
    if keypoints := opened.graph.keypoints if is_ours else opened.keypoints:
        names = ", ".join(keypoints.name(index) for index in range(keypoints.count)) if keypoints.names else "no names"
        say(f"keypoints: kpt_shape {list(keypoints.shape)}, {names}")
    return show_graph(opened.graph, settings) if is_ours and opened.graph.rows else None


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
