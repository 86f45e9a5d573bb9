"""LiteRT files (.tflite), run by LiteRT."""

from __future__ import annotations

import json
import threading
import zipfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ..metadata import read_metadata
from .runtime import Runtime, recorded_shape, unreadable
from .silence import silenced

METADATA_FILE = "metadata.json"  # in the ZIP archive behind the model


class LitertRuntime(Runtime):
    """A .tflite file. It runs on the CPU, in float32, with the number of threads of torch.

    The metadata are JSON in a ZIP archive behind the model, where files that belong to a TensorFlow Lite model lie.
    """

    format = "litert"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        with silenced():
            from ai_edge_litert.interpreter import Interpreter

            try:
                self._interpreter = Interpreter(str(path), num_threads=torch.get_num_threads())
                self._interpreter.allocate_tensors()
                about = _texts(path)
            except Exception as error:
                raise unreadable(path, "a LiteRT model", error) from error
        metadata = read_metadata(about, path, task)
        super().__init__(path, metadata, torch.device("cpu"), *recorded_shape(metadata))
        (given,) = self._interpreter.get_input_details()
        self._input = given["index"]
        outputs = sorted(
            self._interpreter.get_output_details(), key=lambda output: output["name"]
        )  # output_0, output_1
        self._outputs = [output["index"] for output in outputs]
        self._one_call = threading.Lock()  # an interpreter serves one thread at a time
        self.runtime = f"LiteRT {version('ai-edge-litert')} (CPU)"

    def _run(self, images: Tensor) -> list[Tensor]:
        with self._one_call:
            self._interpreter.set_tensor(self._input, images.cpu().contiguous().numpy())
            self._interpreter.invoke()
            return [torch.from_numpy(self._interpreter.get_tensor(index)) for index in self._outputs]


def _texts(path: Path) -> dict[str, object]:
    """The metadata of a file, none for one of another program."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        if METADATA_FILE not in archive.namelist():
            return {}
        values = json.loads(archive.read(METADATA_FILE))
    return values if isinstance(values, dict) else {}
