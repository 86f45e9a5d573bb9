"""OpenVINO folders (x_openvino_model/ with .xml, .bin and metadata.yaml), run by OpenVINO."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from torch import Tensor

from ...config.errors import UserError
from ...config.notes import print_note_once
from ...config.telemetry import refuse_telemetry
from ..metadata import read_metadata
from .runtime import Runtime, fixed_shape, unreadable

if TYPE_CHECKING:
    import openvino

METADATA_FILE = "metadata.yaml"


class OpenVinoRuntime(Runtime):
    """A folder with an .xml, or the .xml itself. It runs on the CPU, in float32.

    half: compute in the 16-bit type that the CPU is fast with.
    """

    format = "openvino"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        refuse_telemetry()
        import openvino
        import openvino.properties.hint as hints

        graph = _graph_file(path)
        try:
            values = _read_yaml(graph.parent / METADATA_FILE)
            core = _core()
            network = core.read_model(graph)
            shape = network.input(0).partial_shape
            settings = {
                hints.performance_mode(): hints.PerformanceMode.LATENCY,
                openvino.properties.inference_num_threads(): torch.get_num_threads(),
            }
            if not half:  # OpenVINO would choose bfloat16 where the CPU has it
                settings[hints.inference_precision()] = openvino.Type.f32
            self._compiled = core.compile_model(network, "CPU", settings)
        except Exception as error:
            raise unreadable(path, "an OpenVINO model", error) from error
        metadata = read_metadata(values if isinstance(values, dict) else {}, path, task)
        if len(network.inputs) != 1 or not _takes_images(shape):
            raise UserError(f"'{path}' takes {len(network.inputs)} inputs of {shape}; expected one (B, 3, H, W).")
        sides = [side.get_length() if side.is_static else None for side in shape]
        super().__init__(path, metadata, torch.device("cpu"), *fixed_shape(sides))
        self._local = threading.local()  # a request of OpenVINO serves one thread
        precision = self._compiled.get_property(hints.inference_precision()).get_type_name()
        if half and precision == "f32":
            print_note_once("half=True: OpenVINO computes in float32 on this CPU, which gains nothing by 16 bits.")
        self.runtime = f"OpenVINO {openvino.__version__.partition('-')[0]} (CPU, {precision})"

    def _run(self, images: Tensor) -> list[Tensor]:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        outputs = self._local.request.infer([images.cpu().contiguous().numpy()], share_inputs=True)
        return [torch.from_numpy(outputs[output].copy()) for output in self._compiled.outputs]


@cache
def _core() -> openvino.Core:
    """OpenVINO of this process, which is kept until its end.

    A Core that compiles replaces the thread's signal stack (sigaltstack). A Core that is destroyed restores the stack
    that it found. That stack may belong to a Core that was destroyed earlier: the next signal then ends the process.
    """
    import openvino

    return openvino.Core()


def _graph_file(path: Path) -> Path:
    if path.suffix.lower() == ".xml":
        return path
    graphs = sorted(path.glob("*.xml"))
    if len(graphs) != 1:
        raise UserError(f"'{path}' holds {len(graphs)} .xml files; expected the one of an OpenVINO model.")
    return graphs[0]


def _read_yaml(path: Path) -> object:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _takes_images(shape: object) -> bool:
    """Whether a partial shape of OpenVINO may be (B, 3, H, W)."""
    if shape.rank.is_dynamic or len(shape) != 4:
        return False
    return shape[1].is_dynamic or shape[1].get_length() == 3
