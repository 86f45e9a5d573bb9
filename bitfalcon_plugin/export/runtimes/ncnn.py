"""ncnn folders (x_ncnn_model/ with model.ncnn.param, model.ncnn.bin and metadata.yaml), run by ncnn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from ..metadata import read_metadata
from .runtime import Runtime, recorded_shape, unreadable
from .silence import silenced

PARAM_FILE, WEIGHTS_FILE, METADATA_FILE = "model.ncnn.param", "model.ncnn.bin", "metadata.yaml"
MAGIC = b"7767517"  # the first line of a .param
INPUT, OUTPUT = "in0", "out"  # names that pnnx gives; an output has a number behind its name
SIXTEEN_BITS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")


class NcnnRuntime(Runtime):
    """An ncnn folder. It runs on the CPU, with the number of threads of torch, one image at a time.

    It computes in float32; an export with half=True is computed in 16 bits where ncnn does that on this CPU.
    """

    format = "ncnn"

    def __init__(self, path: Path, device: torch.device, half: bool = False, task: str | None = None):
        import ncnn

        self._library = ncnn
        try:
            metadata_file = path / METADATA_FILE
            about = yaml.safe_load(metadata_file.read_text(encoding="utf-8")) if metadata_file.is_file() else {}
            args = about.get("args", {}) if isinstance(about, dict) else {}
            self._net = _loaded(ncnn, path, is_half=isinstance(args, dict) and bool(args.get("half")))
        except Exception as error:
            raise unreadable(path, "an ncnn model", error) from error
        metadata = read_metadata(about if isinstance(about, dict) else {}, path, task)
        _, fixed = recorded_shape(metadata)
        super().__init__(path, metadata, torch.device("cpu"), None, fixed)
        self._outputs = sorted(name for name in self._net.output_names() if name.startswith(OUTPUT))
        self.runtime = f"ncnn {ncnn.__version__} (CPU)"

    def _run(self, images: Tensor) -> list[Tensor]:
        results = [self._run_image(image) for image in images.cpu().contiguous().numpy()]
        return [torch.from_numpy(np.stack(outputs)) for outputs in zip(*results)]

    def _run_image(self, image: np.ndarray) -> list[np.ndarray]:
        """Run one image (3, H, W) float32; returns its outputs without the axis of images."""
        extractor = self._net.create_extractor()
        extractor.input(INPUT, self._library.Mat(image).clone())  # a copy, aligned as ncnn wants it
        outputs = []
        for name in self._outputs:
            status, output = extractor.extract(name)
            if status:
                raise RuntimeError(f"ncnn does not compute {name} (status {status})")
            outputs.append(np.array(output))
        return outputs


def _loaded(library: object, path: Path, is_half: bool) -> object:
    """The network of a folder. Raises ValueError for what is no network of images."""
    param, weights = path / PARAM_FILE, path / WEIGHTS_FILE
    for file in (param, weights):
        if not file.is_file():
            raise ValueError(f"there is no {file.name}")
    with param.open("rb") as file:
        if file.readline(64).strip() != MAGIC:
            raise ValueError(f"{PARAM_FILE} is none of ncnn")
    net = library.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, torch.get_num_threads()
    for option in SIXTEEN_BITS:
        setattr(net.opt, option, is_half)
    with silenced() as written:
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise ValueError(written().strip() or "ncnn does not load it")
    if list(net.input_names()) != [INPUT] or f"{OUTPUT}0" not in net.output_names():
        raise ValueError(f"it turns {net.input_names()} into {net.output_names()}; expected {INPUT} and {OUTPUT}0")
    return net
