"""Predict and val by another program than torch, with one word: engine=openvino, onnx or auto.

The network is exported once for any size, compared with the network as every export is, and kept in the cache folder
under a name that stands for its weights and for the versions of the programs. A kept file is opened only if it has its
seal (seal.py): a deleted or damaged one is written again. Each export gets a folder of its own, which is complete when
it gets its name, so that processes that export the same network at the same time do not touch each other's files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from ..config.devices import named_devices
from ..config.errors import UserError
from ..config.files import cache_dir
from ..config.notes import print_note, print_note_once
from ..config.settings import Settings, load_settings
from ..config.telemetry import refuse_telemetry
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
        self._of: tuple[object, ...] = ()  # what was exported, its revision, and whether it is open for 16 bits

    def __deepcopy__(self, memo: dict[int, object]) -> Engine:
        return Engine()  # an open runtime cannot be copied; it is opened again

    def runtime_for(self, working: WorkingModel, settings: Settings) -> Runtime | None:
        """Return what computes in the place of the network with these settings, None where torch does.

        Raises UserError where engine= names a program that is not installed, or that cannot do what the other settings
        ask, or whose file gives other numbers than the network.
        """
        format_, reason = _format_for(settings)
        if format_ is not None and working.has_hooks():
            if settings.engine != "auto":
                raise UserError(
                    f"engine={format_} would not call the functions hooked into the network. Give engine=torch."
                )
            format_, reason = None, "functions are hooked into the network."
        if format_ is None:
            if settings.engine == "auto":
                print_note_once(f"engine=auto: torch computes, because {reason}")
            return None
        try:
            with working.lock:
                runtime = self._opened(working, settings, format_)
        except (UserError, MismatchError) as error:
            if settings.engine != "auto":
                raise
            print_note_once(f"engine=auto: torch computes. {error}")
            return None
        if settings.engine == "auto":
            print_note_once(f"engine=auto: {runtime.runtime} computes.")
        return runtime

    def _opened(self, working: WorkingModel, settings: Settings, format_: str) -> Runtime:
        network, of = working.network, (working, working.revision(), bool(settings.half))
        working.note_random_weights()
        if self._exported is None or self._exported.format != format_ or self._of != of:
            path = kept_export(network, str(working.path or working.source), format_)
            self._exported, self._of = ExportedModel(path), of
        if settings.half and format_ == "onnx":
            print_note_once(
                "half=True: engine=onnx computes in float32. engine=openvino has 16 bits where a CPU gains."
            )
            settings = settings.replace(half=False)
        runtime = self._exported.runtime_for(settings)
        runtime.names = dict(network.names)
        return runtime


def auto_export(network: Detector, source: str, device: str) -> Path | None:
    """Return the kept export that computes with engine=auto on a device, None where torch does."""
    try:
        format_, _ = _format_for(load_settings({"mode": "predict", "engine": "auto", "device": device}))
        return kept_export(network, source, format_) if format_ else None
    except (UserError, MismatchError):
        return None


def _format_for(settings: Settings) -> tuple[str | None, str]:
    """The format whose program computes with these settings; None for torch, and why auto chooses torch.

    Raises UserError as `runtime_for`.
    """
    engine = settings.engine
    if engine == "torch":
        return None, ""
    on_cpu = [device.type for device in named_devices(settings.device)] == ["cpu"]
    if engine == "auto":
        reason = _why_torch(settings, on_cpu)
        return (None, reason) if reason else ("openvino", "")
    require(engine, writing=True, setting="engine")
    if not on_cpu:
        raise UserError(f"engine={engine} computes on the CPU; device={settings.device} is another. Give device=cpu.")
    if settings.embed is not None:
        raise UserError(f"engine={engine}: embed={settings.embed} looks into rows of the network. Give engine=torch.")
    return engine, ""


def _why_torch(settings: Settings, on_cpu: bool) -> str:
    """Why engine=auto is torch, "" where it is OpenVINO."""
    if not on_cpu:
        return "the device is no CPU."
    if settings.embed is not None:
        return f"embed={settings.embed} looks into rows of the network."
    if settings.compile:
        return f"compile={settings.compile} is for torch."
    missing = [name for name in PROGRAMS["openvino"] if find_spec(name) is None]
    return f"{' and '.join(missing)} cannot be found: pip install 'bitfalcon[openvino]'" if missing else ""


def kept_export(network: Detector, source: str, format_: str) -> Path:
    """Return the file or folder of `network` in the cache folder; it is written where it is not there or damaged.

    Raises UserError where it cannot be written, and MismatchError where the file gives other numbers than the network.
    """
    engines, key = cache_dir() / "engines", _key(network, format_)
    name = f"network{EXPORT_FORMATS[format_].suffix}"
    for folder in engines.glob(f"{key}-*"):
        if is_sealed(folder / name):
            with contextlib.suppress(OSError):  # somebody else's
                os.utime(folder)  # the time of its last use
            return folder / name
        shutil.rmtree(folder, ignore_errors=True)
    print_note(f"engine={format_}: the network is exported to '{engines}', once.")
    start = time.perf_counter()
    settings = load_settings({"mode": "export", "format": format_, "dynamic": True})
    try:
        engines.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=engines, prefix=".") as scratch:
            complete = Path(scratch, key)
            complete.mkdir()
            _, agreement, _ = write_checked(network, settings, complete / name, source, maintained=False)
            folder = complete.rename(engines / f"{key}-{Path(scratch).name.lstrip('.')}")
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise _unwritable(engines, format_, error.__cause__) from error
        raise
    except OSError as error:
        raise _unwritable(engines, format_, error) from error
    _forget_old(engines)
    print_note(f"exported in {time.perf_counter() - start:.0f} s; compared with the network: {agreement.describe()}")
    return folder / name


def _unwritable(engines: Path, format_: str, error: OSError) -> UserError:
    return UserError(
        f"engine={format_}: its file cannot be kept in '{engines}': {error.strerror or error}. Name another cache "
        "folder in the variable BITFALCON_CACHE, or give engine=torch."
    )


def _key(network: Detector, format_: str) -> str:
    """A name for the network, the format and everything that writes or runs it."""
    digest = hashlib.sha256()
    versions = [_version(name) for name in ("torch", *PROGRAMS[format_])]
    graph = network.graph
    structure = graph.rows, graph.activation, graph.bit, graph.keypoints, network.strides, network.names
    digest.update(repr((LAYOUT, format_, __version__, versions, structure)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # installed by another name, as onnxruntime-gpu
        refuse_telemetry()
        return import_module(package).__version__


def _forget_old(engines: Path) -> None:
    """Remove the exports that were not used for longest, but for the last KEPT."""
    used = []
    for folder in engines.iterdir():
        with contextlib.suppress(OSError):  # another process has removed it
            used.append((folder.stat().st_mtime, folder))
    for _, folder in sorted(used, reverse=True)[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)
