"""Predict and val by another program than torch, with one word: engine=openvino, onnx or auto.

The network is exported once for any size, compared with the network as every export is, and kept in the cache folder
under a name that stands for its weights and for the versions of the programs. A kept file is opened only if it has its
seal (seal.py): a deleted or damaged one is written again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from ..config.devices import named_devices
from ..config.errors import UserError
from ..config.files import cache_dir
from ..config.notes import print_note, print_note_once
from ..config.settings import Settings, load_settings
from ..config.version import __version__
from ..models.detector import Detector
from ..models.working_model import WorkingModel
from .compare import MismatchError
from .formats import EXPORT_FORMATS, require
from .open import ExportedModel
from .run import write_checked
from .runtimes.runtime import Runtime
from .seal import is_sealed

LAYOUT = 1  # of the kept files; another number makes the files of earlier versions unknown
KEPT = 20  # exports in the cache folder
PROGRAMS = {"openvino": ("openvino", "onnx"), "onnx": ("onnxruntime", "onnx")}  # that write or run the format


class Engine:
    """The exported twin of a network: opened when it is first asked for, and again once the weights have changed."""

    def __init__(self) -> None:
        self._exported: ExportedModel | None = None
        self._of: tuple[WorkingModel | None, int] = None, 0  # what was exported, and its revision

    def __deepcopy__(self, memo: dict[int, object]) -> Engine:
        return Engine()  # an open runtime cannot be copied; it is opened again

    def runtime_for(self, working: WorkingModel, settings: Settings) -> Runtime | None:
        """Return what computes in the place of the network with these settings, None where torch does.

        Raises UserError where engine= names a program that is not installed, or that cannot do what the other settings
        ask, or whose file gives other numbers than the network.
        """
        format_ = _format_for(settings)
        if format_ is None:
            return None
        network, of = working.network, (working, working.revision())
        try:
            if self._exported is None or self._exported.format != format_ or self._of != of:
                path = kept_export(network, str(working.path or working.source), format_)
                self._exported, self._of = ExportedModel(path), of
            runtime = self._exported.runtime_for(settings)
        except (UserError, MismatchError) as error:
            if settings.engine != "auto":
                raise
            print_note_once(f"engine=auto: torch computes. {error}")
            return None
        runtime.names = dict(network.names)
        if settings.engine == "auto":
            print_note_once(f"engine=auto: {runtime.runtime} computes.")
        return runtime


def auto_export(network: Detector, source: str, device: str) -> Path | None:
    """Return the kept export that computes with engine=auto on a device, None where torch does."""
    try:
        format_ = _format_for(load_settings({"mode": "predict", "engine": "auto", "device": device}))
        return kept_export(network, source, format_) if format_ else None
    except (UserError, MismatchError):
        return None


def _format_for(settings: Settings) -> str | None:
    """The format whose program computes with these settings, None for torch. Raises UserError as `runtime_for`."""
    engine = settings.engine
    if engine == "torch":
        return None
    on_cpu = [device.type for device in named_devices(settings.device)] == ["cpu"]
    if engine == "auto":
        can = on_cpu and settings.embed is None and not settings.compile
        return "openvino" if can and all(map(find_spec, PROGRAMS["openvino"])) else None
    require(engine, writing=True)
    if not on_cpu:
        raise UserError(f"engine={engine} computes on the CPU; device={settings.device} is another. Give device=cpu.")
    if settings.embed is not None:
        raise UserError(f"engine={engine}: embed={settings.embed} looks into rows of the network. Give engine=torch.")
    return engine


def kept_export(network: Detector, source: str, format_: str) -> Path:
    """Return the file or folder of `network` in the cache folder; it is written where it is not there or damaged.

    Raises UserError where it cannot be written, and MismatchError where the file gives other numbers than the network.
    """
    folder = cache_dir() / "engines" / _key(network, format_)
    target = folder / f"network{EXPORT_FORMATS[format_].suffix}"
    if is_sealed(target):
        os.utime(folder)  # the time of its last use
        return target
    print_note(f"engine={format_}: the network is exported to '{folder}', once.")
    start = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    settings = load_settings({"mode": "export", "format": format_, "dynamic": True})
    _, agreement, _ = write_checked(network, settings, target, source, maintained=False)  # it takes longer
    _forget_old(folder.parent)
    print_note(f"exported in {time.perf_counter() - start:.0f} s; compared with the network: {agreement.describe()}")
    return target


def _key(network: Detector, format_: str) -> str:
    """A name for the network, the format and everything that writes or runs it."""
    digest = hashlib.sha256()
    versions = [metadata.version(name) for name in ("torch", *PROGRAMS[format_])]
    graph = network.graph
    structure = graph.rows, graph.activation, graph.bit, graph.keypoints, network.strides, network.names
    digest.update(repr((LAYOUT, format_, __version__, versions, structure)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _forget_old(engines: Path) -> None:
    """Remove the exports that were not used for longest, but for the last KEPT."""
    used = sorted(engines.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in used[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)
