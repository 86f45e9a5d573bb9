"""What `info` prints: the rows and totals of a model."""

from __future__ import annotations

from .config import Settings
from .model import Detector, Summary, summary


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
