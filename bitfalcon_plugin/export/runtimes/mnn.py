"""MNN files, run by MNN."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..metadata import read_metadata
from .runtime import Runtime, recorded_shape, unreadable
from .silence import silenced

# MNN's hint for the tiles of Winograd convolutions. With its default, 3, a 3x3 convolution of 64 channels differs from
# the exact one by 1e-3 of its values; with 2 by 1e-6, in 1.5 times the time of that layer.
SMALL_TILES = 3, 2  # number of the hint (WINOGRAD_MEMORY_LEVEL), its value


class MnnRuntime(Runtime):
    """An .mnn file. It runs on the CPU, in float32, with the number of threads of torch.

    The metadata are JSON in the text that MNN calls bizCode.
    """

    format = "mnn"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        with silenced():  # MNN prints what the CPU can do
            import MNN

            self._library = MNN
            try:
                settings = {"backend": "CPU", "numThread": torch.get_num_threads(), "precision": "high"}
                manager = MNN.nn.create_runtime_manager((settings,))
                manager.set_hint(*SMALL_TILES)
                # Without the manager MNN starts four threads, which then take part in all that it computes.
                load = partial(MNN.nn.load_module_from_file, str(path), runtime_manager=manager)
                names = load([], []).get_info()
                self._module = load(names["inputNames"], names["outputNames"])
                about = _texts(names["bizCode"])
            except Exception as error:
                raise unreadable(path, "an MNN model", error.__cause__ or error) from error
        metadata = read_metadata(about, path, task)
        super().__init__(path, metadata, torch.device("cpu"), *recorded_shape(metadata))
        self._one_call = threading.Lock()  # a module of MNN serves one thread at a time
        self.runtime = f"MNN {MNN.version()} (CPU)"

    def _run(self, images: Tensor) -> list[Tensor]:
        expr = self._library.expr
        with self._one_call:
            given = expr.placeholder(list(images.shape), expr.NCHW, expr.float)
            given.write(images.cpu().contiguous().numpy())
            outputs = [expr.convert(output, expr.NCHW).read() for output in self._module.forward([given])]
        return [torch.from_numpy(output.copy()) for output in outputs]


def _texts(text: str) -> dict[str, object]:
    """The metadata of a file, none where the text is that of another program."""
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
