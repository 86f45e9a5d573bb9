"""OpenVINO folders (x_openvino_model/: .xml, .bin and metadata.yaml), run by OpenVINO."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
import yaml
from torch import Tensor

from ...config.errors import UserError
from ..metadata import read_metadata
from .runtime import Runtime, unreadable

SAYS = "metadata.yaml"


class OpenVinoRuntime(Runtime):
    """A folder with an .xml, or the .xml itself. On the CPU, in float32; with half in the 16-bit type that the CPU is fast with."""

    format = "openvino"

    def __init__(self, path: Path, device: torch.device, half: bool = False):
        import openvino
        import openvino.properties.hint as hints

        graph = _graph(path)
        try:
            texts = (
                yaml.safe_load((graph.parent / SAYS).read_text(encoding="utf-8"))
                if (graph.parent / SAYS).is_file()
                else {}
            )
            core = openvino.Core()
            network = core.read_model(graph)
            shape = network.input(0).partial_shape
            settings = {
                hints.performance_mode(): hints.PerformanceMode.LATENCY,
                openvino.properties.inference_num_threads(): torch.get_num_threads(),
            }
            if not half:  # the plugin's own choice is bfloat16 where the CPU has it
                settings[hints.inference_precision()] = openvino.Type.f32
            self._compiled = core.compile_model(network, "CPU", settings)
        except Exception as error:
            raise unreadable(path, "an OpenVINO model", error) from error
        about = read_metadata(texts if isinstance(texts, dict) else {}, path)
        if (
            len(network.inputs) != 1
            or shape.rank.is_dynamic
            or len(shape) != 4
            or shape[1].is_static
            and shape[1].get_length() != 3
        ):
            raise UserError(f"'{path}' takes {len(network.inputs)} inputs of {shape}; expected one (B, 3, H, W).")
        known = [side.get_length() if side.is_static else None for side in shape]
        super().__init__(
            path, about, torch.device("cpu"), known[0], (known[2], known[3]) if known[2] and known[3] else None
        )
        self._requests = threading.local()  # a request serves one thread
        kind = self._compiled.get_property(hints.inference_precision()).get_type_name()
        self.runtime = f"OpenVINO {openvino.__version__.partition('-')[0]} (CPU, {kind})"

    def _run(self, images: Tensor) -> Tensor:
        if not hasattr(self._requests, "mine"):
            self._requests.mine = self._compiled.create_infer_request()
        found = self._requests.mine.infer([images.cpu().contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(found[self._compiled.output(0)].copy())


def _graph(path: Path) -> Path:
    if path.suffix.lower() == ".xml":
        return path
    found = sorted(path.glob("*.xml"))
    if len(found) != 1:
        raise UserError(f"'{path}' holds {len(found)} .xml files; expected the one of an OpenVINO model.")
    return found[0]
