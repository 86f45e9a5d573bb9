"""What `info` prints: the rows and totals of a model."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from .bit.flat import lines_of
from .checkpoint import Checkpoint
from .config import Settings
from .model import Detector, Summary, summary


FORMATS = {"t5": "five ternary weights in a byte", "t2": "four ternary weights in a byte"}
STORES = {"t": "ternary", "b": "int8", "h": "float16", "f": "float32"}


def packed_lines(checkpoint: Checkpoint, path: str | Path) -> list[str]:
    """What a packed file is, its bytes and how many numbers of which kind it has, in one line; none for other checkpoints."""
    if not checkpoint.packed:
        return []
    counts = Counter()
    for line in lines_of(checkpoint.state):
        counts[line.store] += line.count
    kinds = ", ".join(f"{counts[store]:,} {word}" for store, word in STORES.items() if counts[store])
    return [f"{path}: packed as {checkpoint.packed} ({FORMATS[checkpoint.packed]}), {os.path.getsize(path):,} bytes: {kinds}; folded, for "
            "predict and val"]


def show_info(model: Detector, settings: Settings) -> Summary:
    """Print the rows and totals of a model."""
    imgsz = settings.imgsz if isinstance(settings.imgsz, int) else max(settings.imgsz)
    found = summary(model, imgsz)
    width = max(len(row[4]) for row in found.rows)
    print(f"{'':>5}{'from':>20}{'n':>4}{'params':>11}  {'module':<{width}}  arguments")
    for index, source, repeats, parameters, module, arguments in found.rows:
        origin = str(list(source)) if isinstance(source, tuple) else str(source)
        print(f"{index:>5}{origin:>20}{repeats:>4}{parameters:>11}  {module:<{width}}  {arguments}")
    print(f"{model.graph.name} scale={model.graph.scale or 'none'} summary: {found.layers} layers, {found.parameters:,} parameters, "
          f"{found.gradients:,} gradients, {found.gflops:.1f} GFLOPs at {imgsz}")
    return found
