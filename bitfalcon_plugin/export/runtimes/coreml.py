"""Core ML packages (.mlpackage), run by coremltools, which predicts on macOS only."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..metadata import read_metadata
from .runtime import INPUT, OUTPUT, Runtime, recorded_shape, unreadable
from .silence import silenced


class CoremlRuntime(Runtime):
    """An .mlpackage folder, on macOS. The CPU computes; with device=mps Core ML chooses among all processors.

    The metadata are the texts that Core ML calls user-defined.
    """

    format = "coreml"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        with silenced():  # coremltools says which versions of torch it was tested with
            import coremltools

            units = coremltools.ComputeUnit
            try:
                self._model = coremltools.models.MLModel(
                    str(path), compute_units=units.ALL if device.type == "mps" else units.CPU_ONLY
                )
                about = dict(self._model.user_defined_metadata)
                outputs = [output.name for output in self._model.get_spec().description.output]
            except Exception as error:
                raise unreadable(path, "a Core ML package", error) from error
        metadata = read_metadata(about, path, task)
        super().__init__(path, metadata, torch.device("cpu"), *recorded_shape(metadata))
        self._outputs = sorted(name for name in outputs if name.startswith(OUTPUT))
        self.runtime = f"Core ML by coremltools {coremltools.__version__}"

    def _run(self, images: Tensor) -> list[Tensor]:
        results = self._model.predict({INPUT: images.cpu().contiguous().numpy()})
        return [torch.from_numpy(results[name].copy()) for name in self._outputs]
