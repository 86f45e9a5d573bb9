"""Exporter: an export as an object, and the table of formats (dropin-helpers.md 13)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...export.formats import EXPORT_FORMATS
from ...export.run import run_export
from ...models.build import DEFAULT_MODEL, graph_from_settings
from ...models.detector import Detector
from .arguments import Given
from .events import CallbackOwner, ScriptEvents
from .networks import checkpoint_from_network, checkpoint_of

ON_GPUS = ("onnx", "torchscript", "pt2")  # formats whose runtimes here compute on a GPU


def export_formats() -> dict[str, list[Any]]:
    """Return the columns of a table: Format, Argument, Suffix, CPU, GPU, Arguments, a row for each format written here.

    The first row is the checkpoint itself. CPU, GPU: whether a file of the format runs there.
    """
    rows: list[tuple[str, str, str, bool, bool, list[str]]] = [("PyTorch", "-", ".pt", True, True, [])]
    for name, each in EXPORT_FORMATS.items():
        if not each.reason:
            on_gpu = each.needs_gpu or name in ON_GPUS
            rows.append((name, name, each.suffix, not each.needs_gpu, on_gpu, ["batch", *each.options]))
    names = ("Format", "Argument", "Suffix", "CPU", "GPU", "Arguments")
    return {name: list(column) for name, column in zip(names, zip(*rows))}


class Exporter(CallbackOwner):
    """An export: `Exporter(overrides=dict(format="onnx"))(model=network)` returns the path of the file.

    cfg, overrides: settings, of which overrides win. _callbacks: functions by event.
    """

    def __init__(self, cfg: object = None, overrides: Mapping | None = None, _callbacks: Mapping | None = None):
        super().__init__(_callbacks)
        self._given = Given("export", cfg, overrides)
        self.args = self._given.args
        self.file: Path | None = None

    def __call__(self, model: Any = None) -> str:
        """Write a network, or the one that model= names, and return the path of the file."""
        settings = self._given.settings()
        known = checkpoint_of(settings, silent=True)
        if isinstance(model, nn.Module):
            known = checkpoint_from_network(model, known)
        network = known.model() if known is not None else Detector(graph_from_settings(_source(settings), settings))
        events, license = ScriptEvents(self.callbacks, lambda running: self), known and known.license
        self.file = run_export(network, settings, _source(settings), license, events, given=settings.given).path
        return str(self.file)


def _source(settings: Any) -> str:
    """The file that the export lies beside."""
    return str(settings.model or DEFAULT_MODEL)
