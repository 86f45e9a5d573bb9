"""ONNX files, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...config.errors import UserError
from ...config.telemetry import refuse_telemetry
from ...tasks import TASKS
from ..metadata import read_metadata
from .runtime import Runtime, fixed_shape, unreadable

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxRuntime(Runtime):
    """An .onnx file. It runs on a GPU where onnxruntime has its provider for CUDA, otherwise on the CPU.

    The number of threads is that of torch.
    """

    format = "onnx"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        refuse_telemetry()
        import onnxruntime

        on_gpu = device.type == "cuda" and CUDA in onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        providers = [(CUDA, {"device_id": device.index or 0}), CPU] if on_gpu else [CPU]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime has a class for each kind of damage
            raise unreadable(path, "ONNX", error) from error
        try:
            values = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise unreadable(path, "ONNX", error) from error
        metadata = read_metadata(values, path, task)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or not _takes_images(inputs[0]):
            listed = [(entry.name, entry.type, entry.shape) for entry in inputs]
            raise UserError(f"'{path}' takes {listed}; expected one input of floats (B, 3, H, W).")
        sides = [side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape]
        super().__init__(path, metadata, device if on_gpu else torch.device("cpu"), *fixed_shape(sides))
        self._input, self._outputs = inputs[0].name, [entry.name for entry in self._session.get_outputs()]
        self._outputs = self._outputs[: 1 + len(TASKS[self.task].maps)]
        self._takes_half = inputs[0].type == "tensor(float16)"
        self.runtime = f"onnxruntime {onnxruntime.__version__} ({'CUDA' if on_gpu else 'CPU'})"

    def _run(self, images: Tensor) -> list[Tensor]:
        images = images.half() if self._takes_half else images
        outputs = self._session.run(self._outputs, {self._input: images.cpu().contiguous().numpy()})
        return [torch.from_numpy(output) for output in outputs]


def _takes_images(entry: object) -> bool:
    """Whether an input of onnxruntime is floats of shape (B, 3, H, W); an open side is a text or None."""
    if len(entry.shape) != 4 or entry.type not in ("tensor(float)", "tensor(float16)"):
        return False
    channels = entry.shape[1]
    return channels == 3 or not isinstance(channels, int)
