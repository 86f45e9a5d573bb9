"""ExecuTorch programs (.pte), run by ExecuTorch."""

from __future__ import annotations

import json
import threading
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ..metadata import read_metadata
from .runtime import Runtime, recorded_shape, unreadable
from .silence import silenced

ABOUT = "about"  # the method of a program that returns its metadata as JSON


class ExecutorchRuntime(Runtime):
    """A .pte file. It runs on the CPU by XNNPACK, in float32, with ExecuTorch's own number of threads.

    The metadata are JSON, which the method `about` of the program returns.
    """

    format = "executorch"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        with silenced():
            from executorch.runtime import Runtime as Programs

            try:
                self._program = Programs.get().load_program(path)  # a method lives as long as its program
                self._method = self._program.load_method("forward")
                has_about = ABOUT in self._program.method_names
                (text,) = self._program.load_method(ABOUT).execute([]) if has_about else ("{}",)
                about = json.loads(text)
            except Exception as error:
                raise unreadable(path, "an ExecuTorch program", error) from error
        metadata = read_metadata(about if isinstance(about, dict) else {}, path, task)
        super().__init__(path, metadata, torch.device("cpu"), *recorded_shape(metadata))
        self._one_call = threading.Lock()  # the outputs of a method lie in its memory until the next call
        self.runtime = f"ExecuTorch {version('executorch')} (CPU)"

    @property
    def how(self) -> str:
        """The program that computes, as text."""
        return f"{self.runtime}, its own number of threads"

    def _run(self, images: Tensor) -> list[Tensor]:
        with self._one_call:
            return [output.clone() for output in self._method.execute([images.cpu().contiguous()])]
