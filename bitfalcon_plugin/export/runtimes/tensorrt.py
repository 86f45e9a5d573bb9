"""Engines of TensorRT (.engine), run on an NVIDIA GPU. An engine holds for the GPU and the version it was built for.

The file: the length of the metadata in 4 bytes, the lowest first; the metadata as JSON; the engine. An engine holds
machine code, so that opening a stranger's is not safe: export/open.py opens only files that this machine has written.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...compat.allowed import cut_line
from ...config.errors import UserError
from ..input_limits import read_limits
from ..metadata import MAX_NAME, read_metadata
from .runtime import INPUT, OUTPUT, Runtime, recorded_shape, unreadable

if TYPE_CHECKING:
    import tensorrt

LENGTH_BYTES = 4  # before the metadata
MAX_METADATA = 1 << 24  # bytes
VERSION_KEY, GPU_KEY = "tensorrt", "gpu"  # in the metadata: what an engine was built by and for
KEPT_ERRORS = 8  # the last errors that TensorRT reported


class TensorRtRuntime(Runtime):
    """An .engine file that was written on this machine. It runs on the GPU `device`, one call at a time.

    The images of a call are copied to that GPU, and the outputs stay there.
    """

    format = "engine"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        import tensorrt

        try:
            texts, plan = read_engine(path)
        except (OSError, ValueError, RecursionError) as error:
            raise unreadable(path, "an engine of TensorRT", error) from error
        metadata = read_metadata(texts, path, task)
        _check_origin(path, texts, tensorrt.__version__, torch.cuda.get_device_name(device))
        limits = read_limits(metadata.args)
        if metadata.args.get("dynamic") and not limits:
            raise unreadable(path, "an engine of TensorRT", ValueError("it does not say which sizes it takes"))
        super().__init__(path, metadata, device, *recorded_shape(metadata))
        self.limits = limits
        self._one_call = threading.Lock()  # a context of TensorRT serves one call at a time
        with torch.cuda.device(device):
            try:
                self._runtime = tensorrt.Runtime(logger())  # a TypeError where CUDA cannot be used
                self._runtime.engine_host_code_allowed = False
                self._engine = self._runtime.deserialize_cuda_engine(plan)
            except (RuntimeError, TypeError) as error:
                raise unreadable(path, "an engine of TensorRT", RuntimeError(last_error())) from error
            if self._engine is None:
                raise unreadable(path, "an engine of TensorRT", RuntimeError(last_error()))
            self._outputs = self._names_of_outputs(tensorrt)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise UserError(
                    f"'{path}' gets no memory on {torch.cuda.get_device_name(device)}: {last_error()}. Free memory of "
                    "the GPU, or export with a smaller imgsz= or batch= ."
                )
            self._stream = torch.cuda.Stream(device)  # on the default stream TensorRT would wait for the whole GPU
        self.runtime = f"TensorRT {tensorrt.__version__}"

    def _names_of_outputs(self, tensorrt: object) -> list[str]:
        """The outputs by their number. Raises UserError for inputs and outputs that the writer does not give."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
        outputs = sorted(set(names) - set(inputs), key=lambda name: (len(name), name))
        floats = all(self._engine.get_tensor_dtype(name) == tensorrt.DataType.FLOAT for name in names)
        if inputs != [INPUT] or outputs != [f"{OUTPUT}{index}" for index in range(len(outputs))] or not floats:
            raise UserError(
                f"'{self.path}' takes {', '.join(inputs)} and gives {', '.join(outputs)}; expected 32-bit floats from "
                f"{INPUT} to {OUTPUT}0. Export the checkpoint with `bitfalcon export`."
            )
        return outputs

    def _run(self, images: Tensor) -> list[Tensor]:
        with self._one_call, torch.cuda.device(self.device):
            images = images.to(self.device, torch.float32).contiguous()
            if not self._context.set_input_shape(INPUT, tuple(images.shape)):
                raise RuntimeError(last_error())
            shapes = [tuple(self._context.get_tensor_shape(name)) for name in self._outputs]
            outputs = [torch.empty(shape, dtype=torch.float32, device=self.device) for shape in shapes]
            for name, tensor in zip((INPUT, *self._outputs), (images, *outputs), strict=True):
                if not self._context.set_tensor_address(name, tensor.data_ptr()):
                    raise RuntimeError(last_error())
            self._stream.wait_stream(torch.cuda.current_stream(self.device))  # the images may be still on their way
            done = self._context.execute_async_v3(self._stream.cuda_stream)
            self._stream.synchronize()  # also after an error: the tensors are in use until then
            if not done:
                raise RuntimeError(last_error())
        return outputs


def write_engine_file(path: Path, texts: Mapping[str, str], plan: object) -> None:
    """Write a serialized engine (a buffer) behind its metadata."""
    metadata = json.dumps(dict(texts)).encode()
    with path.open("wb") as file:
        file.write(len(metadata).to_bytes(LENGTH_BYTES, "little"))
        file.write(metadata)
        file.write(plan)


def read_engine(path: Path) -> tuple[dict[str, object], bytes]:
    """Read the metadata and the serialized engine of a file. Raises OSError or ValueError for another kind of file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= MAX_METADATA:
            raise ValueError("it does not begin with the length of its metadata")
        texts, plan = json.loads(file.read(length)), file.read()
    if not isinstance(texts, dict) or not plan:
        raise ValueError("it has no metadata" if plan else "it ends behind its metadata")
    return texts, plan


def _check_origin(path: Path, texts: Mapping[str, object], version: str, gpu: str) -> None:
    """Raise UserError for an engine of another version of TensorRT or for another GPU."""
    built = [cut_line(str(texts.get(key)), MAX_NAME) for key in (VERSION_KEY, GPU_KEY)]
    if built != [version, gpu]:
        raise UserError(
            f"'{path}' was built by TensorRT {built[0]} for {built[1]}; here is TensorRT {version} on {gpu}, and an "
            "engine holds for one version and one GPU. Export the checkpoint again with `bitfalcon export "
            "format=engine`."
        )


@cache
def logger() -> tensorrt.ILogger:
    """What TensorRT reports its errors to; it takes one such object for all of a process. Nothing is printed."""
    import tensorrt

    class Errors(tensorrt.ILogger):
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT_ERRORS)

        def log(self, severity: object, text: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.errors.append(text)

    return Errors()


def last_error() -> str:
    """The last error that TensorRT reported since the last call of this function, in one line."""
    errors = logger().errors
    text = errors[-1] if errors else "TensorRT does not say why"
    errors.clear()
    return cut_line(text, MAX_NAME).rstrip(".")
