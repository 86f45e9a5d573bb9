"""What every writer of an exported file gets, and what keeps the programs that writers call quiet."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.errors import UserError
from ..config.telemetry import refuse_telemetry
from .metadata import Metadata
from .network import ExportedNetwork
from .runtimes.runtime import last_line


@dataclass(frozen=True)
class ExportJob:
    """All that a writer needs for one export.

    images: an example of the input (B, 3, H, W), whose size is recorded. metadata: what the file says about itself.
    dynamic, opset, simplify, half, int8: the settings of that name. calibration: images (1, 3, H, W) that the ranges of
    int8 are measured on. stem: the name of the files in a format that is a folder. maintained: of format=onnx, whether
    the exporter that torch maintains is asked first. device: where the file is opened to be compared; of
    format=engine, the GPU that it is built on. workspace: of format=engine, the memory in GiB that TensorRT may use
    beside the maps; None for its own limit.
    """

    network: ExportedNetwork
    images: Tensor
    metadata: Metadata
    dynamic: bool = False
    opset: int | None = None
    simplify: bool = True
    half: bool = False
    int8: bool = False
    calibration: tuple[Tensor, ...] = ()
    stem: str = "model"
    maintained: bool = True
    device: torch.device = torch.device("cpu")
    workspace: float | None = None

    @property
    def precision(self) -> str:
        """float32, half or int8."""
        if self.int8:
            return "int8"
        return "half" if self.half else "float32"

    @property
    def openvino_extra(self) -> str:
        """The extra of bitfalcon that installs what the writer of OpenVINO needs."""
        return "int8" if self.int8 else "openvino"


@contextlib.contextmanager
def imported(package: str, extra: str) -> Iterator[None]:
    """Turn the error of an import in this block into a UserError.

    The package is installed (formats.require), but broken: its import may raise an ImportError or anything else.
    """
    refuse_telemetry()
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{package} is installed but cannot be imported: {last_line(error)}. Install it again: "
            f"pip install --force-reinstall 'bitfalcon[{extra}]'"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch's exporters say about their own future, about fixed sizes and about compilers."""
    names = ("torch.onnx", "torch.export", "torch.fx", "torch.utils.cpp_extension")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
