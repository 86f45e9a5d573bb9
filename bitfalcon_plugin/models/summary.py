"""The sizes of a model, row by row and in total, and their table for `bitfalcon info`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..config.files import size_of
from ..config.printable import say
from ..config.settings import Settings
from ..ops.letterbox import legal_size
from .detector import Detector, rows_named
from .modules import entry
from .modules.conv import Folded
from .weights.checkpoint import Checkpoint
from .weights.packed_layout import lines_of

CODEC_TEXTS = {"t5": "five ternary weights in a byte", "t2": "four ternary weights in a byte"}
STORES = {"t": "ternary", "b": "int8", "h": "float16", "f": "float32"}


def packed_lines(checkpoint: Checkpoint, path: str | Path) -> list[str]:
    """Return a line with codec, bytes and counts of numbers of a packed file; none for other checkpoints."""
    if not checkpoint.packed:
        return []
    counts = Counter()
    for line in lines_of(checkpoint.state):
        counts[line.store] += line.count
    kinds = ", ".join(f"{counts[store]:,} {word}" for store, word in STORES.items() if counts[store])
    codec = f"{checkpoint.packed} ({CODEC_TEXTS[checkpoint.packed]})"
    return [f"{path}: packed as {codec}, {size_of(Path(path)):,} bytes: {kinds}; folded, for predict and val"]


def show_info(model: Detector, settings: Settings) -> Summary:
    """Print the rows and totals of a model, and return them."""
    imgsz = settings.imgsz if isinstance(settings.imgsz, int) else max(settings.imgsz)
    sizes, graph = summary(model, imgsz), model.graph
    width = max(len(row[4]) for row in sizes.rows)
    say(f"{'':>5}{'from':>20}{'n':>4}{'params':>11}  {'module':<{width}}  arguments")
    for index, source, repeats, parameters, module, arguments in sizes.rows:
        origin = str(list(source)) if isinstance(source, tuple) else str(source)
        say(f"{index:>5}{origin:>20}{repeats:>4}{parameters:>11}  {module:<{width}}  {arguments}")
    say(
        f"{graph.name} scale={graph.scale or 'none'} summary: {sizes.layers} layers, {sizes.parameters:,} parameters, "
        f"{sizes.gradients:,} gradients, {sizes.gflops:.1f} GFLOPs at {imgsz}"
    )
    return sizes


class Info(NamedTuple):
    """Sizes of a model: modules without children, parameters, parameters with gradients, GFLOPs of one image."""

    layers: int
    parameters: int
    gradients: int
    gflops: float


@dataclass(frozen=True)
class Summary:
    """Sizes of a model: parameters, parameters with gradients, GFLOPs (2 x MACs / 1e9, one image), and its rows.

    layers: modules without children, each once; a folded batch norm is not counted.
    """

    layers: int
    parameters: int
    gradients: int
    gflops: float
    rows: tuple[tuple[int, object, int, int, str, str], ...]  # index, from, n, parameters, module, arguments


def summary(model: Detector, imgsz: int = 640) -> Summary:
    """Count a model: GFLOPs with attention, for a square image whose side is imgsz rounded up to a legal size."""
    rows = []
    for row, module in zip(model.graph.rows, model.model, strict=True):
        args = [*row.args, *(value for key, value in row.keywords.items() if key == "channels")]
        cls = entry(row.module).cls
        rows.append(
            (row.index, row.source, row.repeats, _count(module), f"{cls.__module__}.{cls.__qualname__}", str(args))
        )
    layers = sum(1 for module in model.modules() if not list(module.children()) and not isinstance(module, Folded))
    gradients = sum(p.numel() for p in model.parameters() if p.requires_grad)
    side, _ = legal_size(imgsz, model.multiple)
    return Summary(layers, _count(model), gradients, _flops(model, side) / 1e9, tuple(rows))


def _flops(model: Detector, side: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # brings triton along: half a second that only this needs

    # torch's own counter, on shapes alone unless a registered module needs values
    weight = next(model.parameters())
    image = torch.zeros(1, model.graph.channels, side, side, dtype=weight.dtype, device=weight.device)
    tensors = {name: value.to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            torch.func.functional_call(model, tensors, (image.to("meta"),))
    except (RuntimeError, NotImplementedError):
        with rows_named(), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(image)
    finally:
        for module, training in modes:
            module.training = training
    return counter.get_total_flops()


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
