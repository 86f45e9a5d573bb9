"""ONNX files, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...config.errors import UserError
from ..metadata import read_metadata
from .runtime import Runtime, unreadable

CUDA = "CUDAExecutionProvider"


class OnnxRuntime(Runtime):
    """An .onnx file. On a GPU where this onnxruntime has its provider for CUDA, otherwise on the CPU. Threads: torch's own number."""

    format = "onnx"

    def __init__(self, path: Path, device: torch.device, half: bool = False):
        import onnxruntime

        on_gpu = device.type == "cuda" and CUDA in onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        providers = (
            [(CUDA, {"device_id": device.index or 0}), "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
        )
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # a class of its own for each kind of damage
            raise unreadable(path, "ONNX", error) from error
        about = read_metadata(self._session.get_modelmeta().custom_metadata_map, path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape if inputs else []
        if (
            len(inputs) != 1
            or len(shape) != 4
            or isinstance(shape[1], int)
            and shape[1] != 3
            or inputs[0].type not in ("tensor(float)", "tensor(float16)")
        ):
            raise UserError(
                f"'{path}' takes {[(i.name, i.type, i.shape) for i in inputs]}; expected one input of floats (B, 3, H, W)."
            )
        known = [side if isinstance(side, int) and side > 0 else None for side in shape]
        super().__init__(
            path,
            about,
            device if on_gpu else torch.device("cpu"),
            known[0],
            (known[2], known[3]) if known[2] and known[3] else None,
        )
        self._input, self._output, self._narrow = inputs[0].name, outputs[0].name, inputs[0].type == "tensor(float16)"
        self.runtime = f"onnxruntime {onnxruntime.__version__} ({'CUDA' if on_gpu else 'CPU'})"

    def _run(self, images: Tensor) -> Tensor:
        images = images.half() if self._narrow else images
        return torch.from_numpy(self._session.run([self._output], {self._input: images.cpu().contiguous().numpy()})[0])
